"""What a mistake of a user's is answered with, for tests of every command."""

import pytest

from prefrl.cli import main


def complaint(words, capsys):
    """Return the one sentence, without a traceback; the exit code is 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("prefrl: ") and said.endswith("\n") and said.count("\n") == 1
    return said
