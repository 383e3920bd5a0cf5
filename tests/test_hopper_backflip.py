"""The backflip: what counts as a clean flip, and what the hidden reward pays."""

import gymnasium
import mujoco
import numpy as np
import prefrl.envs  # noqa: F401
import pytest

from prefrl.control.environments.adapters import make_environments

ID = "prefrl/HopperBackflip-v1"
DT = 0.008
STAND = "f" * 20
FLIGHT = "." * 60
FOOT, OTHER, CLEAR, TURN, CLEAN, SOUND = range(12, 18)  # where they are in the observation
DOWN = 20
GEOMS = {"foot": 0, "leg": 1, "thigh": 2, "torso": 3}


def make(count=1, **options):
    return gymnasium.make_vec(ID, count, "vector_entry_point", threads=1, **options)


def expected_reward(o):
    """Compute the reward from the observation alone, as the docstring tells it."""
    flying = (o[:, FOOT] == 0) & (o[:, OTHER] == 0)
    spin = -(o[:, 8] - 2 / 3 * o[:, 9] - 1 / 3 * o[:, 10])
    pay = np.clip(spin, -12, 12) / 8 * (0.4 + np.clip(o[:, TURN], 0, 2)) * (o[:, TURN] <= 2.5)
    pay *= (0.5 + np.clip(o[:, 0] - 0.6, 0, 1)) * np.where(o[:, CLEAN] > 0, 1, 0.1)
    upright = (1 + o[:, 2]) / 2 * np.clip((o[:, 0] - 0.2) / 0.8, 0, 1)
    pay = np.where(flying, pay, np.minimum(np.clip(spin, -12, 12) / 8, 0))
    down = ~((o[:, FOOT] > 0) & (o[:, CLEAR] >= 1)) & ~(flying & (o[:, CLEAN] > 0))
    return pay + 6 * upright * o[:, SOUND] - 0.05 * down


def stood_up(environments):
    """Tell whose robot was stood up in the step just made, bool `[env]`."""
    return environments.stood_up


def play(contacts, degrees, part="torso"):
    """Lead a straight robot through given contacts and angles; return rewards and clean flips.

    Args:
        contacts: what touches in each step: "f" the foot, "x" another part, "b" both, "." nothing.
        degrees: by how much the robot turns backward in each step.
        part: which part "x" is.
    """
    environments = make()
    environments.reset(seed=0)
    task = environments.task
    task.qpos[:], task.qvel[:] = task.model.qpos0, 0.0
    rewards, info = [], {}
    for contact, turn in zip(contacts, np.broadcast_to(degrees, len(contacts)), strict=True):
        before = task.qpos.copy()
        task.qvel[:, 2] = -np.deg2rad(turn) / DT
        task.qpos[:, 2] += task.qvel[:, 2] * DT
        task.sensors[:] = 0.0
        task.sensors[:, -1, GEOMS["foot"]] = contact in "fb"
        task.sensors[:, 0, GEOMS[part]] = contact in "xb"
        reward, info = task.evaluate(np.zeros((1, 3)), before)
        if not stood_up(environments):
            np.testing.assert_allclose(reward, expected_reward(task.observe()), atol=1e-9)
        rewards.append(reward[0])
    return np.array(rewards), info["clean_flips"][0]


def in_the_air(contacts, degrees):
    """Return the turn of each step: `degrees` in all, evenly, in the steps of flight."""
    flying = np.array(list(contacts)) == "."
    return flying * (degrees / max(flying.sum(), 1))


@pytest.mark.parametrize(
    ("contacts", "degrees", "flips"),
    [
        (STAND + FLIGHT + STAND, 360, 1),
        (STAND + FLIGHT + STAND, 271, 1),
        (STAND + FLIGHT + STAND, 260, 0),
        (STAND + FLIGHT + STAND, -360, 0),
        (STAND + FLIGHT + STAND, 720, 1),
        ("." * 60 + STAND, 360, 1),  # an episode starts as if after a stand
        ("x" + "f" * 6 + FLIGHT + STAND, 360, 0),
        ("x" + "f" * 12 + FLIGHT + STAND, 360, 0),
        ("x" + "f" * 13 + FLIGHT + STAND, 360, 1),
        (STAND + "b" + FLIGHT + STAND, 360, 0),
        (STAND + "x" + FLIGHT + STAND, 360, 0),
        (STAND + FLIGHT + "f" * 6 + "b" + STAND, 360, 0),
        (STAND + FLIGHT + "f" * 13 + "x" + STAND, 360, 0),
        (STAND + FLIGHT + "f" * 14 + "x" + STAND, 360, 1),
        (STAND + FLIGHT + "b" + STAND, 360, 0),
        (STAND + FLIGHT + "x" + STAND, 360, 0),
        (STAND + FLIGHT + "ff..ff..." + STAND, 360, 1),  # it may bounce on the foot
        (STAND + FLIGHT + "f.x" + STAND, 360, 0),
        (STAND + FLIGHT + "f" * 13, 360, 0),  # the episode ends too early
        (STAND + FLIGHT + "f" * 14, 360, 1),
        (STAND + FLIGHT + "f" + FLIGHT + STAND, 500, 0),  # 250 degrees each
        (STAND + FLIGHT + STAND + FLIGHT + STAND, 720, 2),
        (STAND + FLIGHT + "f" + FLIGHT + STAND, 720, 2),
        (STAND + FLIGHT + "x" + "f" * 13 + FLIGHT + STAND, 720, 1),
    ],
)
def test_clean_flips(contacts, degrees, flips):
    assert play(contacts, in_the_air(contacts, degrees))[1] == flips


@pytest.mark.parametrize("part", ["leg", "thigh", "torso"])
def test_no_other_part_may_touch(part):
    for contacts in (STAND + FLIGHT + "x" + STAND, STAND + FLIGHT + "ffx" + STAND):
        assert play(contacts, in_the_air(contacts, 360), part)[1] == 0


def test_turning_on_the_floor_is_no_flip():
    assert play("f" * 100, 10)[1] == 0
    assert play("x" * 100, 10)[1] == 0


def test_a_flip_is_what_pays():
    clip = 188

    def total(contacts, degrees):
        contacts = contacts.ljust(clip, contacts[-1])
        turns = np.zeros(clip)
        turns[: len(degrees)] = degrees
        return play(contacts, turns)[0].sum()

    def flight(contacts, degrees):
        return total(contacts, in_the_air(contacts, degrees))

    stand = total("f", [])
    rocking = total(("f" * 8 + "." * 12) * 9, ([-3] * 8 + [2] * 12) * 9)
    rolling = total(("x" * 10 + "." * 10) * 9, [4] * 180)
    fallen = total(STAND + "x", [])
    half = flight(STAND + FLIGHT + "x", 180)
    crash = flight(STAND + FLIGHT + "x", 360)
    flip = flight(STAND + FLIGHT + STAND, 360)
    forward = flight(STAND + FLIGHT + STAND, -360)
    assert abs(stand) < 1e-9
    assert abs(rocking) < 0.15 * flip
    assert forward <= stand
    assert max(stand, rocking, rolling, half) < crash < flip - 50
    assert fallen < rolling < half


def test_no_step_decides_alone():
    contacts = STAND + FLIGHT + STAND * 2
    rewards = play(contacts, in_the_air(contacts, 360))[0]
    assert np.abs(rewards).max() < 0.05 * rewards.sum()


def random_steps(environments, steps, seed=0):
    generator = np.random.default_rng(seed)
    size = (steps, environments.num_envs, 3)
    for action in generator.uniform(-1, 1, size).astype(np.float32):
        yield action, environments.step(action)


def test_the_reward_is_a_function_of_the_observation():
    environments = make(16, max_episode_steps=1000)
    environments.reset(seed=1)
    helped = 0
    for _, (observations, reward, *_) in random_steps(environments, 300):
        same = ~stood_up(environments)
        helped += (~same).sum()
        np.testing.assert_allclose(reward[same], expected_reward(observations)[same], atol=1e-9)
    assert 0 < helped < 300


def test_a_robot_that_is_down_for_half_a_second_is_stood_up():
    environments = make(4)
    environments.reset(seed=6)
    down, before, seen, turns = np.zeros(4), environments.qpos.copy(), 0, np.zeros(4)
    for _, (observations, reward, *_, info) in random_steps(environments, 400):
        assert np.abs(info["turns"] - turns).max() < 0.05
        turns = info["turns"]
        for row in np.flatnonzero(stood_up(environments)):
            seen += 1
            assert down[row] == 62 and observations[row, DOWN] == 0
            assert abs(environments.qpos[row, 0] - before[row, 0]) < 0.2  # where it lay
            assert reward[row] <= -0.04
            np.testing.assert_allclose(observations[row, 1:3], [0, 1], atol=0.01)
            np.testing.assert_allclose(observations[row, 6:12], 0, atol=0.01)
        np.testing.assert_allclose(
            observations[:, DOWN] * 62.5, (down + 1) * (observations[:, DOWN] > 0)
        )
        down, before = observations[:, DOWN] * 62.5, environments.qpos.copy()
        assert not info["clean_flips"].any()
    assert seen >= 4


def test_a_clip_marks_where_the_robot_was_stood_up():
    environments = make_environments("prefrl/HopperBackflip-v1", 4, seed=6, threads=1)
    environments.reset()
    generator, extras = np.random.default_rng(0), []
    for _ in range(500):  # an episode: the last step is not followed by one of the next
        extras.append(environments.extras())
        environments.step(generator.uniform(-1, 1, (4, 3)))
    qpos, marks = (np.stack([extra[name] for extra in extras]) for name in ("qpos", "stood_up"))
    jumps = np.abs(np.diff(qpos[..., 1:], axis=0)).max(2) > 0.5
    assert not marks[0].any(), "an episode begins standing, and nobody was stood up"
    assert jumps.sum() >= 4 and np.array_equal(marks[1:], jumps)
    assert not environments.extras()["stood_up"].any(), "nor at the beginning of the next one"
    cheetah = make_environments("prefrl/HalfCheetah-v0", 2, seed=0, threads=1)
    assert cheetah.extras().keys() == {"qpos"}


def test_being_stood_up_forgets_no_flip_and_is_no_clean_start():
    flip = STAND + FLIGHT + STAND
    lying = "x" * 63
    assert play(flip + lying + STAND, in_the_air(flip + lying + STAND, 360))[1] == 1
    twice = flip + lying + "f" * 13 + FLIGHT + STAND
    assert play(twice, in_the_air(twice, 720))[1] == 2
    hasty = flip + lying + "f" * 12 + FLIGHT + STAND
    assert play(hasty, in_the_air(hasty, 720))[1] == 1


def test_a_landing_pays_until_another_part_touches():
    landed = STAND + FLIGHT
    whole = play(landed + "f" * 40, in_the_air(landed + "f" * 40, 360))[0][len(landed) :]
    crash = play(landed + "ffx" + "f" * 37, in_the_air(landed + "f" * 40, 360))[0][len(landed) :]
    assert (whole[:37] > 3).all() and (np.abs(whole[38:]) < 1e-9).all()
    np.testing.assert_allclose(crash[:2], whole[:2])
    np.testing.assert_allclose(crash[2:], [-0.05] * 13 + [0] * 25, atol=1e-9)


def test_contacts_are_those_of_every_substep():
    environments = make()
    environments.reset(seed=2)
    model, task = environments.model, environments.task
    data, probe = mujoco.MjData(model), mujoco.MjData(model)

    def start():
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = task.qpos[0], task.qvel[0]
        mujoco.mj_forward(model, data)

    start()
    seen = set()
    for action, (observations, *_) in random_steps(environments, 499):
        names, data.ctrl[:] = set(), action[0]
        for _ in range(4):
            probe.qpos[:] = data.qpos  # as the substep begins
            mujoco.mj_fwdPosition(model, probe)
            for contact in probe.contact:
                names |= {model.geom(int(geom)).name for geom in contact.geom}
            mujoco.mj_step(model, data)
        if stood_up(environments)[0]:
            start()
            continue
        names.discard("floor")
        expected = ("foot_geom" in names, bool(names - {"foot_geom"}))
        assert (observations[0, FOOT], observations[0, OTHER]) == expected
        seen.add(expected)
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_a_new_episode_remembers_nothing():
    environments = make(4, max_episode_steps=100)
    environments.reset(seed=3)
    steps = [step for _, step in random_steps(environments, 100)]
    observations = steps[-1][0]
    np.testing.assert_array_equal(
        observations[:, 12:], np.tile([1, 0, 1, 0, 0, 0, 0, 0, 0], (4, 1))
    )
    assert not environments.task.memory["clean_flips"].any()


def test_the_saved_state_holds_the_flight_under_way():
    one, two = make(8), make(8)
    one.reset(seed=4)
    two.reset(seed=5)
    assert any(stood_up(one).any() for _ in random_steps(one, 300))
    for _ in random_steps(one, 30):
        pass
    np.testing.assert_array_equal(two.set_state(one.get_state()), one.task.observe())
    helped = 0
    for (_, first), (_, second) in zip(
        random_steps(one, 300, 1), random_steps(two, 300, 1), strict=True
    ):
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
        np.testing.assert_array_equal(first[4]["turns"], second[4]["turns"])
        helped += stood_up(one).sum()
    assert helped
