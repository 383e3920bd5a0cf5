"""What a mistake of a user's is answered with, for tests of every command."""

import pytest

from prefrl.cli import main


def complaint(words, capsys):
    """Return the one sentence, without a traceback; the exit code is 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("prefrl: ") and sentence.endswith("\n") and sentence.count("\n") == 1
    return sentence
