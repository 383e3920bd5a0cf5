"""Whether a clip is of the spaces of an environment."""

import numpy as np
import pytest

from prefrl.errors import UserError
from prefrl.storage.spaces import check_segment, spaces_of
from prefrl.types import Segment, SpaceSpec

BOX = SpaceSpec((2,))
FOUR = SpaceSpec(n=4)
TEXT = SpaceSpec(text=True)
WORDS = np.array(["a", "b"])

FITTING = [
    (np.zeros((2, 2)), BOX),
    (np.zeros((2, 2), np.uint8), BOX),
    (np.zeros((2, 3, 4)), SpaceSpec((3, 4))),
    (np.zeros(2), SpaceSpec()),
    (np.array([0, 3]), FOUR),
    (np.array([0.0, 3.0]), FOUR),
    (np.array([True, False]), SpaceSpec(n=2)),
    (WORDS, TEXT),
    (WORDS, None),
    (np.zeros((2, 7)), None),
]
WRONG = [
    (np.zeros((2, 3)), BOX, r"of shape \[3\], but the environment's are of shape \[2\]"),
    (np.zeros(2), BOX, r"of shape \[\], but the environment's are of shape \[2\]"),
    (WORDS, BOX, r"text, but the environment's are of shape \[2\]"),
    (np.zeros((2, 2)), TEXT, r"of shape \[2\], but the environment's are text"),
    (WORDS[:, None], TEXT, r"text of shape \[1\], but the environment's are text"),
    (
        np.zeros((2, 1)),
        FOUR,
        r"of shape \[1\], but the environment's are whole numbers from 0 to 3",
    ),
    (WORDS, FOUR, "text, but the environment's are whole numbers from 0 to 3"),
    (np.array([0, 4]), FOUR, "than the 4 here; expected whole numbers from 0 to 3"),
    (np.array([-1, 0]), FOUR, "than the 4 here"),
    (np.array([0.5, 0]), FOUR, "than the 4 here"),
    (np.array([np.nan, 0]), FOUR, "that are not finite in step 0; expected finite numbers"),
    (np.array([[0, 0], [0, np.inf]]), BOX, "that are not finite in step 1"),
    (np.array([0, np.nan]), None, "that are not finite in step 1"),
]


@pytest.mark.parametrize("name", ["observations", "actions"])
@pytest.mark.parametrize(("steps", "space"), FITTING)
def test_what_fits(steps, space, name):
    check_segment(with_steps(name, steps), {} if space is None else {name: space})


@pytest.mark.parametrize("name", ["observations", "actions"])
@pytest.mark.parametrize(("steps", "space", "sentence"), WRONG)
def test_what_does_not_fit_is_a_sentence(steps, space, sentence, name):
    with pytest.raises(UserError, match=f"^the clip 'mine' has (other )?{name} {sentence}"):
        check_segment(with_steps(name, steps), {} if space is None else {name: space})


def with_steps(name, steps):
    arrays = {"observations": np.zeros((2, 1)), "actions": np.zeros((2, 1))} | {name: steps}
    return Segment("mine", **arrays)


def test_a_clip_is_of_the_spaces_that_it_shows():
    for actions in (WORDS, WORDS[:, None], np.zeros((2, 3))):
        segment = Segment("mine", np.zeros((2, 4)), actions)
        check_segment(segment, spaces_of(segment))
    assert spaces_of(Segment("mine", WORDS, np.zeros((2, 3)))) == {
        "observations": SpaceSpec(text=True),
        "actions": SpaceSpec((3,)),
    }
