"""Rewards and counts of the behaviours of our own: handstand, press-ups, pirouette."""

import mujoco
import numpy as np
import pytest
from prefrl.envs.ant_pirouette import AntPirouette, vertical_in_body
from prefrl.envs.cheetah_handstand import CheetahHandstand
from prefrl.envs.cheetah_press_ups import CheetahPressUps


def started(kind, count=2):
    task = kind(count, 1)
    task.reset(np.arange(count))
    return task


def moved(task, qpos, touches, monkeypatch):
    """Return reward and report of a step that ends in this pose, with these touches."""
    before = task.qpos.copy()
    task.qpos[:] = qpos
    monkeypatch.setattr(task, "touches", lambda: np.asarray(touches, bool))
    return task.evaluate(np.zeros((task.count, task.model.nu)), before)


def test_a_handstand_pays_where_the_torso_points_down_and_only_the_front_foot_touches(monkeypatch):
    task = started(CheetahHandstand, 3)
    qpos = np.zeros((3, 9))
    qpos[:, 2] = np.pi / 2, np.pi / 2, 0
    task.qpos[:] = 0
    touches = np.zeros((3, 8))
    touches[:, 0], touches[1, 3] = 1, 1  # the second touches with its head, too
    rewards, report = moved(task, qpos, touches, monkeypatch)
    np.testing.assert_allclose(rewards, [1, 0.25, 0])
    np.testing.assert_array_equal(report["handstand_share"], [1, 0, 0])
    assert task.observe()[:, -2:].tolist() == [[1, 0], [1, 1], [1, 0]]
    assert moved(task, qpos, np.zeros((3, 8)), monkeypatch)[0].tolist() == [
        0.25,
        0.25,
        0,
    ]  # in flight
    further = qpos + np.eye(9)[0] * task.dt * np.array([[1], [1], [-9]])  # m/s
    rewards, report = moved(task, further, touches, monkeypatch)
    np.testing.assert_allclose(rewards, [1 - 0.2, 0.25 - 0.2, -0.4])
    np.testing.assert_allclose(report["handstand_share"], [2 / 3, 0, 0])


def test_press_ups_are_counted_and_paid_down_and_up(monkeypatch):
    task = started(CheetahPressUps)
    both_feet, one_foot = [1, 1, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]
    paid, press_ups = [], []
    task.qpos[:] = 0
    task.qpos[:, 1] = -0.09
    heights = [*np.linspace(-0.09, -0.27, 60)[1:], *np.linspace(-0.27, -0.04, 60)[1:]]
    for height in [*heights, -0.2, -0.05]:  # the last time not low enough
        qpos = task.qpos.copy()
        qpos[:, 1] = height
        rewards, report = moved(task, qpos, [both_feet, one_foot], monkeypatch)
        paid.append(rewards)
        press_ups.append(report["press_ups"])
    # Down to -0.22 pays and further costs; up to -0.09 pays and further costs.
    earned = np.sum(paid[: len(heights)], axis=0)[0] * task.dt
    np.testing.assert_allclose(earned, 0.13 - 0.05 + 0.18 - 0.05, atol=0.01)
    np.testing.assert_array_equal(np.array(paid)[:, 1], -0.5)
    assert press_ups[len(heights) - 1].tolist() == press_ups[-1].tolist() == [1, 0]
    assert np.min(np.array(press_ups)[:, 0]) == 0


def test_a_press_up_pays_on_the_spot_with_the_back_level_and_nothing_but_feet(monkeypatch):
    task = started(CheetahPressUps, 4)
    task.qpos[:] = 0
    qpos = np.zeros((4, 9))
    qpos[:, 1] = -0.02  # towards low, at 0.4 m/s
    qpos[1, 0], qpos[2, 2], qpos[3, 2] = 0.05, 0.4, np.pi  # 1 m/s along; tilted; on its back
    touches = np.zeros((4, 8))
    touches[:, :2] = 1
    rewards, _ = moved(task, qpos, touches, monkeypatch)
    np.testing.assert_allclose(rewards, [0.4, 0.4 - 0.2, -0.5, -0.5])
    touches[0, 5] = 1
    qpos[:, 1] -= 0.02
    assert moved(task, qpos, touches, monkeypatch)[0][0] == -0.5


def test_down_is_low_again_after_a_press_up(monkeypatch):
    task = started(CheetahPressUps)
    lows = []
    for height in (-0.13, -0.23, -0.2, -0.1, -0.08, -0.2):
        qpos = task.qpos.copy()
        qpos[:, 1] = height
        moved(task, qpos, np.zeros((2, 8)), monkeypatch)
        lows.append(task.observe()[0, -1])
    assert lows == [0, 1, 1, 1, 0, 0]


def test_a_pirouette_pays_turning_about_the_vertical_on_the_spot(monkeypatch):
    task = started(AntPirouette, 4)
    task.qpos[:, 3:7] = [
        [1, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [np.sqrt(0.5), np.sqrt(0.5), 0, 0],
    ]
    task.qpos[:, :2] = [[0, 0], [3, 4], [0, 0], [0.6, 0.8]]
    task.qvel[:] = 0
    task.qvel[:, 3:6] = [[1, 1, 2], [0, 0, 9], [0, 0, 2], [0, 2, 0]]
    rewards, report = task.evaluate(np.zeros((4, 8)), task.qpos.copy())
    # Level; too far and too fast; on its back; on its side, where its y points up.
    np.testing.assert_allclose(rewards, [2, 4 - 1, 0, 0 - 0.5], atol=1e-12)
    np.testing.assert_allclose(report["turns"] * 2 * np.pi / task.dt, [2, 9, -2, 2])


def test_the_vertical_is_mujocos():
    quaternions = np.random.default_rng(0).standard_normal((9, 4))
    for quaternion, vertical in zip(quaternions, vertical_in_body(quaternions), strict=True):
        matrix = np.zeros(9)
        mujoco.mju_quat2Mat(matrix, quaternion / np.linalg.norm(quaternion))
        np.testing.assert_allclose(vertical, matrix[6:], atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "index", "value", "seconds"),
    [
        (CheetahHandstand, 2, np.pi, 1.0),
        (CheetahPressUps, 2, np.pi, 1.0),
        (AntPirouette, slice(3, 7), [0, 1, 0, 0], 1.0),
    ],
)
def test_who_has_been_down_for_long_starts_again_and_keeps_its_counts(kind, index, value, seconds):
    task = started(kind)
    for name in task.counts:
        task.memory[name][:] = 3
    steps = int(np.ceil(seconds / task.dt - 1e-9))
    for step in range(steps):
        task.qpos[0, index] = value
        task.qvel[:] = 0
        task.evaluate(np.zeros((2, task.model.nu)), task.qpos.copy())
        assert task.stood_up().tolist() == [step == steps - 1, False]
    assert np.abs(task.qpos[0, index] - task.model.qpos0[index]).max() < 0.2
    assert all(task.memory[name][0] >= 2 for name in task.counts)
    task.evaluate(np.zeros((2, task.model.nu)), task.qpos.copy())
    assert not task.stood_up().any()
    task.reset(np.arange(1))
    assert all(task.memory[name][0] == 0 for name in task.counts)
