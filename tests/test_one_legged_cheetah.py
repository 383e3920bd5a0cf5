"""The one-legged cheetah: its physics, what it counts, and what it pays."""

import gymnasium
import mujoco
import numpy as np
import prefrl.envs  # noqa: F401
import pytest

ID = "prefrl/OneLeggedCheetah-v0"
COUNT = 4
FOOT, OTHER, CLEAN = 18, 19, 20  # where they are in the observation


def make(name=ID, **options):
    return gymnasium.make_vec(name, COUNT, "vector_entry_point", threads=1, **options)


def actions(steps, seed=0):
    generator = np.random.default_rng(seed)
    return generator.uniform(-1, 1, (steps, COUNT, 6)).astype(np.float32)


def test_physics_are_those_of_half_cheetah():
    one_leg, plain = make(), make("prefrl/HalfCheetah-v0")
    observations, _ = one_leg.reset(seed=3)
    plain.reset(seed=3)
    for action in actions(300):
        np.testing.assert_array_equal(one_leg.qpos, plain.qpos)
        np.testing.assert_array_equal(one_leg.task.qvel, plain.task.qvel)
        observations = one_leg.step(action)[0]
        plain.step(action)
    pitch = one_leg.qpos[:, 2]
    np.testing.assert_array_equal(observations[:, 0], one_leg.qpos[:, 1])
    np.testing.assert_array_equal(observations[:, 1:3].T, [np.sin(pitch), np.cos(pitch)])
    np.testing.assert_array_equal(observations[:, 3:9], plain.qpos[:, 3:])
    np.testing.assert_array_equal(observations[:, 9:18], plain.task.qvel)


def hand_count(model, path, steps):
    """Count contacts in MuJoCo's own list: front foot and others, bool `[step]` each.

    `path` holds the actions of one row, after the first state `(qpos, qvel)`.
    """
    (qpos, qvel), controls = path
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(model, data)
    touched = []
    for control in controls[:steps]:
        data.ctrl[:] = control
        names = set()
        for _ in range(5):
            mujoco.mj_step(model, data)
            for contact in data.contact:
                names |= {model.geom(int(geom)).name for geom in contact.geom}
        touched.append(names - {"floor"})
    foot = np.array(["ffoot" in names for names in touched])
    return foot, np.array([bool(names - {"ffoot"}) for names in touched])


def test_reports_agree_with_a_hand_count_of_contacts():
    steps = 120
    environments = make(max_episode_steps=steps)
    environments.reset(seed=5)
    start = environments.qpos.copy()
    states = [(q.copy(), v.copy()) for q, v in zip(start, environments.task.qvel, strict=True)]
    controls, seen, rewards, x = actions(steps), [], [], [start[:, 0]]
    final = {}
    for control in controls:
        observations, reward, _, ended, info = environments.step(control)
        if ended.all():
            observations, final = np.stack(info["final_obs"]), info["final_info"]
        else:
            x.append(environments.qpos[:, 0].copy())
        seen.append(observations)
        rewards.append(reward)
    seen, rewards, x = np.array(seen), np.array(rewards), np.array(x)
    for row in range(COUNT):
        foot, other = hand_count(environments.model, (states[row], controls[:, row]), steps)
        assert foot.any()
        assert other.any()
        assert not other.all()
        np.testing.assert_array_equal(seen[:, row, FOOT], foot)
        np.testing.assert_array_equal(seen[:, row, OTHER], other)
        shares = [final[f"{name}_share"][row] for name in ("one_leg", "flight", "other")]
        np.testing.assert_allclose(
            shares, [(foot & ~other).mean(), (~foot & ~other).mean(), other.mean()], atol=1e-12
        )
        since, clean = 10, []
        for touch in other:
            since = 0 if touch else min(since + 1, 10)
            clean.append(since / 10)
        np.testing.assert_array_equal(seen[:, row, CLEAN], clean)
        speed = np.clip(np.diff(x[:, row]) / 0.05, -1, 5)
        expected = np.array(clean)[:-1] * (speed + 2) - 2
        np.testing.assert_allclose(rewards[:-1, row], expected, atol=1e-9)
        assert final["forward_speed"][row] == pytest.approx(
            (x[-1, row] - x[0, row]) / (steps * 0.05), abs=0.1
        )


def test_a_new_episode_starts_clean_and_uncounted():
    environments = make(max_episode_steps=30)
    environments.reset(seed=0)
    for action in actions(30):
        observations, _, _, ended, _ = environments.step(action)
    assert ended.all()
    np.testing.assert_array_equal(observations[:, FOOT:], np.tile([0, 0, 1], (COUNT, 1)))
    info = environments.step(actions(1)[0])[4]
    shares = info["one_leg_share"] + info["flight_share"] + info["other_share"]
    np.testing.assert_array_equal(shares, 1)
    assert set(info["other_share"]) <= {0.0, 1.0}


def placed(height, pitch, speed):
    """Return environments in which every cheetah was put somewhere, moving forward."""
    environments = make()
    environments.reset(seed=0)
    environments.qpos[:] = 0
    environments.task.qvel[:] = 0
    environments.qpos[:, 1], environments.qpos[:, 2] = height, pitch
    environments.task.qvel[:, 0] = speed
    return environments


def rewards(environments, steps):
    none = np.zeros((COUNT, 6), np.float32)
    return np.array([environments.step(none)[1][0] for _ in range(steps)])


def test_flying_forward_pays_its_speed():
    np.testing.assert_allclose(rewards(placed(3, 0.5, 3.0), 5), 3.0, atol=0.2)


def test_no_speed_pays_more_than_the_limits():
    np.testing.assert_array_equal(rewards(placed(3, 0.5, 9.0), 5), 5.0)
    np.testing.assert_array_equal(rewards(placed(3, 0.5, -9.0), 5), -1.0)


def test_standing_on_both_feet_and_lying_pay_the_least():
    assert (rewards(placed(0, 0, 0.0), 40)[20:] == -2).all()
    on_its_back = rewards(placed(-0.5, np.pi, 5.0), 40)[20:]  # sliding
    assert on_its_back.max() < -1


def test_a_touch_costs_until_half_a_second_has_passed():
    environments = placed(0, 0, 0.0)
    assert rewards(environments, 20)[-1] == -2
    environments.qpos[:, 1] = 5
    environments.task.qvel[:] = 0
    environments.task.qvel[:, 0] = 3
    paid = rewards(environments, 12)[1:]  # the contact sensor lags one substep
    assert (np.diff(paid[:8]) > 0).all()
    assert paid[-1] == pytest.approx(3, abs=0.2)
