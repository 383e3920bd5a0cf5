"""`prefrl check`, and `check_environment` from Python: one for both worlds."""

import gymnasium
import numpy as np
import pytest
import toy_environments
from complaints import complaint
from test_text_environments import Guess

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.runs.check import check_environment


def test_both_worlds_are_tried_out_by_one_function():
    assert check_environment("prefrl/HopperBackflip-v1") == []
    assert check_environment("prefrl/GuessNumber-v0") == []
    assert check_environment("toy_environments:toy/Pay-v0") == []
    assert check_environment(toy_environments.Pay(), 20) == []
    assert check_environment(Guess()) == []
    with pytest.raises(UserError, match=r"NotFinite: step\(.*\) gave the reward nan"):
        check_environment(toy_environments.NotFinite("reward"), 20)


def test_gymnasiums_own_check_is_heard_and_what_it_says_is_a_note():
    class Unseeded(toy_environments.Pay):
        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(seed=0)
            return observation.astype(np.float32), info

    notes = check_environment(Unseeded(), 20)
    assert notes and all(
        note.startswith("Unseeded: Gymnasium's own check says: ") for note in notes
    )
    assert not any("\x1b" in note or "WARN" in note for note in notes)


def test_the_command_says_what_to_do_or_what_is_worth_a_note(capsys):
    main(["check", "toy_environments:toy/Pay-v0"])
    assert capsys.readouterr().out == (
        "toy_environments:toy/Pay-v0 can be trained in; nothing is worth a note\n"
    )
    main(["check", "toy_environments:toy/Random-v0"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("note: toy/Random-v0 is not deterministic")
    assert printed[-1] == "toy_environments:toy/Random-v0 can be trained in"
    sentence = complaint(["check", "toy_environments:toy/NanReset-v0"], capsys)
    assert "toy/NanReset-v0: reset(seed=0) gave nan as number 0 of the observation" in sentence
    sentence = complaint(["check", "toy_environments:toy/Endless-v0"], capsys)
    assert "--horizon" in sentence
    main(["check", "prefrl/GuessNumber-v0", "--replies", "5", "7"])
    assert capsys.readouterr().out.endswith("nothing is worth a note\n")
    sentence = complaint(["check", "toy_environments:toy/Pay-v0", "--replies", "5"], capsys)
    assert "the reply '5' is given, but this environment speaks no text" in sentence
    main(["check", "toy_environments:toy/Endless-v0", "--horizon", "20"])
    assert "Blind" not in capsys.readouterr().out
    main(["check", "toy_environments:toy/Blind-v0"])
    assert "draws no pictures" in capsys.readouterr().out


def test_an_environment_is_closed_again():
    made = []

    class Open(toy_environments.Pay):
        def __init__(self, render_mode=None):
            super().__init__(render_mode=render_mode)
            made.append(self)

        def close(self):
            made.remove(self)

    toy_environments.register("Open", Open)
    try:
        check_environment("toy/Open-v0")
    finally:
        del gymnasium.registry["toy/Open-v0"]
    assert made == []
