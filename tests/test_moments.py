"""Moments of clips that mislead, and clips in which nothing moves."""

import contextlib
import dataclasses
import warnings

import numpy as np
import pytest
from fakes import make_trajectory
from labelling import pose_segment, robot

from prefrl.config.learning import FitConfig, LoopConfig, QueryConfig
from prefrl.control.environments.adapters import make_environments
from prefrl.errors import Note
from prefrl.learning.selection import select
from prefrl.learning.stillness import moves, without_still
from prefrl.types import ENDED, Segment, text_array
from prefrl.viewer.clips import Clips
from prefrl.viewer.moments import set_back, still_from


def swinging(frames=60, points=3):
    """Return points that swing to and fro, `[frame, point, 3]`."""
    time = np.linspace(0, 6, frames)[:, None, None]
    phase = np.arange(points)[None, :, None]
    return np.concatenate([np.sin(time + phase), np.cos(time - phase), 0.2 * time + phase], 2)


def test_where_a_body_is_carried_elsewhere_it_was_set_back():
    points = swinging()
    assert set_back(points) == []
    points[25:] += [0.9, 0.0, 0.4]
    assert set_back(points) == [25]


def test_a_limb_that_kicks_and_a_body_that_is_hit_are_not_set_back():
    kicked, hit = swinging(), swinging()
    kicked[30:, 0] += [0.9, 0.0, 0.0]
    hit[30:] += np.array([0.2, 0, 0]) * np.arange(1, 31)[:, None, None]  # it flies on
    assert set_back(kicked) == [] and set_back(hit) == []
    assert set_back(swinging()[:3]) == []


def test_a_body_that_is_put_on_its_feet_is_set_back_where_the_environment_does_not_say_so():
    """Walker2d says when; its own marks are what is found, and nothing else."""
    environments = make_environments("prefrl/Walker2d-v0", 4, 0)
    with contextlib.closing(environments):
        environments.description.action_space.seed(0)
        qpos, marks = [], []
        environments.reset()
        for _ in range(200):
            extras = environments.extras()
            qpos.append(extras["qpos"])
            marks.append(extras["stood_up"].copy())
            environments.step(
                np.array([environments.description.action_space.sample() for _ in range(4)])
            )
        model = environments.model()
    clips = Clips(model, 0.008, lambda name: None)
    found = 0
    for row in range(4):
        poses = np.stack(qpos)[:, row]
        plain = Segment(f"{row}", poses, poses[:, :1], {"qpos": poses})
        told = dataclasses.replace(
            plain, id=f"{row} told", extras=plain.extras | {"stood_up": np.stack(marks)[:, row]}
        )
        shown, says = clips.describe(plain, "u"), clips.describe(told, "u")
        assert shown["set_back"] == says["stood_up"] and says["set_back"] == []
        found += len(shown["set_back"])
    assert found >= 4


def test_a_clip_is_still_from_where_nothing_moves_until_the_end():
    points = swinging()
    assert still_from(points, 0.02) is None
    points[40:] = points[40]
    assert still_from(points, 0.02) == 40
    assert still_from(points, 0.01) is None, "less than a rest"
    assert still_from(np.repeat(points[:1], 60, 0), 0.02) == 0


def test_a_clip_says_whether_it_stands_still_with_and_without_poses():
    model, _ = robot()
    clips = Clips(model, 0.02, lambda name: None)
    moving, still = pose_segment("a", 0), pose_segment("b", 0)
    poses = still.extras["qpos"].copy()
    poses[20:] = poses[20]
    still = dataclasses.replace(still, extras={"qpos": poses})
    assert clips.describe(moving, "u")["still"] is None
    assert clips.describe(still, "u")["still"] == 20
    numbers = np.arange(60.0)[:, None].repeat(2, 1)
    numbers[30:] = numbers[30]
    plain = Segment("c", numbers, np.zeros((60, 1)))
    described = Clips(None, 0.02, lambda name: None).describe(plain, "u")
    assert described["still"] == 30 and described["set_back"] == []
    flag = dataclasses.replace(plain, id="e", observations=np.where(numbers > 9, 1e3, numbers))
    assert Clips(None, 0.02, lambda name: None).describe(flag, "u")["set_back"] == []
    ended = dataclasses.replace(plain, id="d", extras={ENDED: np.arange(60) >= 30})
    described = Clips(None, 0.02, lambda name: None).describe(ended, "u")
    assert described["ended"] and described["still"] is None, "that is said already"


# --- what people are asked about --------------------------------------------------------------


def still_segment(name):
    return Segment(name, np.ones((5, 2)), np.zeros((5, 1)))


def test_what_moves_is_told_by_poses_observations_and_never_of_texts():
    assert moves(Segment("a", np.arange(10.0).reshape(5, 2), np.zeros((5, 1))))
    assert not moves(still_segment("a"))
    poses = np.ones((5, 3))
    lies = Segment("b", np.arange(10.0).reshape(5, 2), np.zeros((5, 1)), {"qpos": poses})
    assert not moves(lies), "what is seen are poses"
    assert moves(Segment("c", text_array(["a"]), text_array(["b"])))


def test_groups_in_which_nothing_moves_are_replaced_and_it_is_said():
    moving = [Segment(f"m{i}", np.arange(10.0).reshape(5, 2) + i, np.zeros((5, 1)))
              for i in range(3)]  # fmt: skip
    still = [still_segment(f"s{i}") for i in range(3)]
    groups = [(still[0], still[1]), (moving[0], still[1]), (still[1], still[2])]
    more = [(still[0], still[2]), (still[1], moving[0]), (moving[1], moving[2])]
    with pytest.warns(Note, match="round 4: 2 of 3 groups of clips are not asked about"):
        kept = without_still(groups, 3, 4, lambda: more)
    assert kept == [groups[1], more[2]], "the same pair once, and fewer where there are no others"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert without_still([groups[1]], 1, 4, lambda: 1 / 0) == [groups[1]]
        assert without_still(groups[:1], 1, 4, lambda: []) == groups[:1], "else nothing is left"


def config_of(asks_people):
    query = QueryConfig(acquisition="uniform")
    return LoopConfig(0, 4, 100, 8, 5, "?", query, FitConfig(), asks_people=asks_people)


def test_people_alone_are_spared_what_does_not_move():
    lively = [make_trajectory(30, episode=i, first=1000 * i) for i in range(3)]
    dull = [
        dataclasses.replace(t, episode=9 + i, extras={"qpos": np.ones((30, 1))})
        for i, t in enumerate(lively)
    ]
    with pytest.warns(Note, match="nothing moves"):
        queries, _ = select([*lively, *dull], None, config_of(True), 0, 12)
    assert len(queries) == 12
    assert all(any(map(moves, query.segments)) for query in queries)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked, _ = select([*lively, *dull], None, config_of(False), 0, 12)
        assert not all(any(map(moves, query.segments)) for query in asked)
        same, _ = select(lively, None, config_of(True), 0, 12)
    others, _ = select(lively, None, config_of(False), 0, 12)
    assert [q.segments[0].id for q in same] == [q.segments[0].id for q in others]
