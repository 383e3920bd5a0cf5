"""The contract of every environment of ours, and parity of two of them with Gymnasium's."""

import warnings

import gymnasium
import mujoco
import numpy as np
import prefrl.envs
import pytest
from gymnasium.envs.registration import load_env_creator
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

IDS = [name for name in gymnasium.registry if name.startswith("prefrl/")]
COUNT, HORIZON = 3, 12

FASTEST = {"prefrl/Swimmer-v0": 1.0}
"""The speed at which a robot is thrown, if not 10: in a thick fluid that ends in no number."""

NEVER_TOUCHED = {"prefrl/Ant-v0": [*range(33, 39), *range(51, 57), *range(69, 75), *range(87, 93)]}
"""Observed numbers that are always 0: the contact forces on links inside the torso."""

OLDER = ["prefrl/HopperBackflip-v0"]

every_id = pytest.mark.parametrize(  # of the robots; language and pixels have tests of their own
    "name", [name for name in IDS if "task" in gymnasium.spec(name).kwargs and name not in OLDER]
)


@pytest.fixture
def mujoco_warnings():
    """Collect what MuJoCo warns of; otherwise it prints it and writes MUJOCO_LOG.TXT."""
    said = []
    mujoco.set_mju_user_warning(said.append)
    yield said
    mujoco.set_mju_user_warning(None)


def vector(name, count=COUNT, horizon=HORIZON, threads=1):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*max_episode_steps.*")
        return gymnasium.make_vec(
            name, count, "vector_entry_point", max_episode_steps=horizon, threads=threads
        )


def single(name, horizon=HORIZON):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*max_episode_steps.*")
        return gymnasium.make(name, max_episode_steps=horizon)


def actions_of(environments, steps, seed=0):
    low, high = environments.action_space.low, environments.action_space.high
    drawn = np.random.default_rng(seed).uniform(low, high, (steps, *low.shape))
    return drawn.astype(np.float32)


def row_of(values, row):
    """Return what a vector environment's info says of one row, without the masks."""
    return {
        name: row_of(value, row) if isinstance(value, dict) else value[row]
        for name, value in values.items()
        if not name.startswith("_") and values.get(f"_{name}", np.zeros(COUNT, bool))[row]
    }


@pytest.mark.parametrize("name", OLDER)
def test_an_older_version_differs_in_its_physics_alone(name):
    with pytest.warns(DeprecationWarning, match="out of date"):
        older = vector(name, 2)
    newer = vector(name.replace("-v0", "-v1"), 2)
    one, other = older.reset(seed=0)[0], newer.reset(seed=0)[0]
    np.testing.assert_array_equal(one, other)
    for _ in range(50):  # until it has landed
        one, other = (each.step(np.zeros((2, 3), np.float32))[0] for each in (older, newer))
    assert (one != other).any()
    np.testing.assert_allclose(one, other, atol=0.05)


def test_ids_have_a_summary_each():
    assert len(IDS) >= 4
    assert sorted(prefrl.envs.SUMMARIES) == sorted(IDS)


@every_id
def test_single_environment_keeps_gymnasiums_contract(name):
    with warnings.catch_warnings():
        # Joint velocities have no bound, an environment made by `make` is checked unwrapped, and
        # the force on a cart is in [-3, 3], as in Gymnasium.
        warnings.filterwarnings("ignore", ".*(infinity|render_mode|normalized space).*")
        check_env(gymnasium.make(name).unwrapped, skip_render_check=True)


@every_id
def test_row_equals_the_single_environment_seeded_with_seed_plus_row(name):
    environments = vector(name)
    singles = [single(name) for _ in range(COUNT)]
    observations, info = environments.reset(seed=7)
    for row, environment in enumerate(singles):
        observation, said = environment.reset(seed=7 + row)
        np.testing.assert_array_equal(observations[row], observation)
        assert row_of(info, row) == said
    resets = 0
    for action in actions_of(environments, 2 * HORIZON + 3):
        observations, rewards, terminated, truncated, info = environments.step(action)
        assert not terminated.any()
        for row, environment in enumerate(singles):
            observation, reward, ended, cut, said = environment.step(action[row])
            assert not ended and cut == truncated[row] and reward == rewards[row]
            if cut:
                resets += 1
                assert info["_final_obs"][row] and info["_final_info"][row]
                np.testing.assert_array_equal(info["final_obs"][row], observation)
                assert row_of(info["final_info"], row) == said
                observation, _ = environment.reset()
            else:
                assert not info.get("_final_info", np.zeros(COUNT, bool))[row]
                assert row_of(info, row) == said
            np.testing.assert_array_equal(observations[row], observation)
    assert resets == 2 * COUNT


@every_id
def test_horizon_is_fixed_and_rows_reset_by_themselves(name):
    environments = vector(name, horizon=5)
    assert environments.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    environments.reset(seed=[3, 4, 5])
    cuts = [environments.step(a)[3].tolist() for a in actions_of(environments, 11)]
    assert [all(cut) for cut in cuts] == [step in (4, 9) for step in range(11)]
    assert [any(cut) for cut in cuts] == [all(cut) for cut in cuts]


@every_id
def test_returned_arrays_are_copies(name):
    environments = vector(name)
    kept = [environments.reset(seed=1)[0]]
    before = [kept[0].copy()]
    for action in actions_of(environments, HORIZON + 2):
        observations, rewards, _, _, info = environments.step(action)
        finals = [final for final in info.get("final_obs", ()) if final is not None]
        kept += [observations, rewards, *finals]
        before += [array.copy() for array in (observations, rewards, *finals)]
    for array, copy in zip(kept, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    # Nor does writing to them reach the simulation.
    again = vector(name)
    for array in again.reset(seed=1)[0]:
        array[:] = 0
    np.testing.assert_array_equal(again.step(actions_of(again, 1)[0])[0], kept[1])


@every_id
def test_run_follows_from_its_seed(name):
    def run(seed, threads):
        environments = vector(name, threads=threads)
        observations = [environments.reset(seed=seed)[0]]
        observations += [environments.step(a)[0] for a in actions_of(environments, HORIZON + 5)]
        return np.stack(observations)

    np.testing.assert_array_equal(run(5, threads=1), run(5, threads=2))
    assert (run(5, threads=1) != run(50, threads=1)).any(axis=(1, 2)).all()


@every_id
def test_saved_state_continues_to_the_bit(name):
    environments, other = vector(name), vector(name)
    environments.reset(seed=2)
    actions = actions_of(environments, 3 * HORIZON)
    for action in actions[: HORIZON + 5]:  # into the second episode, whose start was drawn
        environments.step(action)
    state = environments.get_state()
    other.reset(seed=99)
    for action in actions[:3]:
        other.step(-action)
    resumed = other.set_state(state)
    expected = []
    for action in actions[HORIZON + 5 :]:
        expected.append(environments.step(action))
    np.testing.assert_array_equal(
        resumed, other.set_state(state), err_msg="the state must not change after it was taken"
    )
    for action, (observations, rewards, _, cut, info) in zip(
        actions[HORIZON + 5 :], expected, strict=True
    ):
        again = other.step(action)
        np.testing.assert_array_equal(again[0], observations)
        np.testing.assert_array_equal(again[1], rewards)
        np.testing.assert_array_equal(again[3], cut)
        finals = [said.get("final_info", {}) for said in (again[4], info)]
        np.testing.assert_equal(*finals)


@every_id
def test_action_that_is_not_a_number_is_an_error_in_a_sentence(name, mujoco_warnings):
    environments = vector(name)
    environments.reset(seed=0)
    action = actions_of(environments, 1)[0]
    action[1, 0] = np.nan
    with pytest.raises(
        FloatingPointError, match=r"simulation 1 .* not finite .* give finite actions"
    ):
        environments.step(action)
    environments.reset(seed=0)  # starts afresh
    assert np.isfinite(environments.step(np.nan_to_num(action))[0]).all()
    alone = single(name)
    alone.reset(seed=0)
    with pytest.raises(FloatingPointError, match="give finite actions"):
        alone.unwrapped.step(action[1])


@every_id
def test_it_says_what_it_is(name):
    spec = gymnasium.spec(name)
    task = load_env_creator(spec.kwargs["task"])
    assert f"Version History:\n        v{spec.version}:" in task.__doc__
    assert "Observation `[" in task.__doc__ and "Action `[" in task.__doc__
    built, alone = vector(name, 1), single(name)
    for environment in (built, alone.unwrapped):
        assert environment.metadata["question"].endswith("?")
        assert 0.3 <= environment.metadata["clip_seconds"] <= 5
        assert environment.metadata["render_fps"] == round(1 / environment.task.dt)
        assert environment.qpos.shape[-1] == environment.model.nq
    assert task.clip_seconds < spec.max_episode_steps * built.task.dt / 2
    assert f"[{built.single_observation_space.shape[0]}]" in task.__doc__
    assert f"[{built.single_action_space.shape[0]}]" in task.__doc__


@every_id
def test_every_observed_number_moves_and_no_two_are_the_same(name):
    environments = vector(name, count=24, horizon=200)
    seen, rewards = [environments.reset(seed=4)[0]], []
    # Thrown into the air and spinning, robots meet what actions drawn at random seldom lead to.
    generator = np.random.default_rng(0)
    fastest = FASTEST.get(name, 10.0)
    environments.task.qvel[:] = generator.uniform(-fastest, fastest, environments.task.qvel.shape)
    environments.task.qvel[:, 1] = generator.uniform(0, fastest, 24)
    for action in actions_of(environments, 150) * generator.choice([0, 1], (24, 1)):
        observations, reward, *_ = environments.step(action.astype(np.float32))
        seen.append(observations)
        rewards.append(reward)
    assert np.ptp(rewards) > 0
    seen = np.concatenate(seen)
    assert seen.dtype == np.float64 and np.isfinite(seen).all()
    constant = np.flatnonzero(np.ptp(seen, axis=0) == 0).tolist()
    assert constant == NEVER_TOUCHED.get(name, [])
    seen = np.delete(seen, constant, axis=1)
    assert len(np.unique(seen, axis=1).T) == seen.shape[1], "two observed numbers are the same"


class NeverEnds(gymnasium.Wrapper):
    """Go on after a fall, as our tasks do."""

    def step(self, action):
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, False, truncated, info


@pytest.mark.parametrize(
    ("name", "unseen"),  # the terms of Gymnasium's reward that no viewer sees: ours lacks them
    [
        ("Ant", ["reward_ctrl", "reward_contact"]),
        ("HalfCheetah", ["reward_ctrl"]),
        ("Hopper", ["reward_ctrl"]),
        ("InvertedDoublePendulum", []),
        ("InvertedPendulum", []),
        ("Reacher", ["reward_ctrl"]),
        ("Swimmer", ["reward_ctrl"]),
        ("Walker2d", ["reward_ctrl"]),
    ],
)
def test_parity_with_gymnasium(name, unseen, mujoco_warnings, monkeypatch):
    monkeypatch.setattr("prefrl.envs.pendulums.DOWN_SECONDS", np.inf)  # poles stay where they fell
    mine = vector(f"prefrl/{name}-v0", 4, 24)
    assert not mujoco_warnings  # but of their half_cheetah.xml, which is written the old way
    reference = gymnasium.make_vec(
        f"{name}-v5",
        4,
        "sync",
        max_episode_steps=24,
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        wrappers=[NeverEnds],
    )
    theirs = [environment.unwrapped for environment in reference.envs]
    assert mine.single_observation_space == reference.single_observation_space
    assert mine.single_action_space == reference.single_action_space
    assert mine.task.dt == theirs[0].dt
    observations, info = mine.reset(seed=3)
    expected, said = reference.reset(seed=3)
    np.testing.assert_array_equal(observations, expected)
    assert info.keys() == said.keys()
    # One begins with joints faster than random actions ever turn them.
    mine.task.qvel[3] = 1.2 * FASTEST.get(f"prefrl/{name}-v0", 10.0)
    mine.task.batch.forward(np.array([3]))
    theirs[3].set_state(mine.qpos[3].copy(), mine.task.qvel[3].copy())
    met = {}
    for action in actions_of(mine, 64):
        observations, rewards, _, cut, info = mine.step(action)
        expected, expected_rewards, _, expected_cut, said = reference.step(action)
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_array_equal(cut, expected_cut)
        if cut.all():
            for last, expected_last in zip(info["final_obs"], said["final_obs"], strict=True):
                np.testing.assert_array_equal(last, expected_last)
            info, said = info["final_info"], said["final_info"]
        assert info.keys() == said.keys()
        for term in said:
            np.testing.assert_allclose(info[term], said[term], rtol=0, atol=1e-12)
            met.setdefault(term, []).extend(said[term])
        theirs_but_unseen = expected_rewards - sum(said[term] for term in unseen)
        if name in ("Hopper", "Walker2d"):  # ours pays nothing for falling forward
            fallen = said["reward_survive"] == 0
            theirs_but_unseen = np.where(fallen, -1.0, theirs_but_unseen)
        np.testing.assert_allclose(rewards, theirs_but_unseen, rtol=0, atol=1e-11)
    assert all(len(set(values)) > 1 for term, values in met.items() if not term.startswith("_"))
    reference.close()


@pytest.mark.parametrize(
    ("name", "steps"),
    [("prefrl/InvertedPendulum-v0", 13), ("prefrl/InvertedDoublePendulum-v0", 10)],
)
def test_poles_that_have_been_down_for_half_a_second_start_again(name, steps):
    environments = vector(name, 2, 100)
    start = environments.reset(seed=0)[0]
    environments.task.qpos[0, 1] = 1.5
    environments.task.batch.forward()
    for step in range(steps):
        observations, rewards, *_ = environments.step(np.zeros((2, 1), np.float32))
        assert environments.stood_up.tolist() == [step == steps - 1, False]
        assert rewards[0] <= 0
    assert (observations[0] != start[0]).any()
    np.testing.assert_allclose(observations[0], start[0], atol=0.5)
    assert environments.step(np.zeros((2, 1), np.float32))[1][0] > 0
    assert not environments.stood_up.any()


@pytest.mark.parametrize("name", ["prefrl/Hopper-v0", "prefrl/Walker2d-v0"])
def test_robots_that_have_been_unhealthy_for_half_a_second_start_again(name):
    environments = vector(name, 2, 200)
    start = environments.reset(seed=0)[0]
    environments.task.qpos[0, 2] = 1.2  # rad
    environments.task.batch.forward()
    still = np.zeros((2, *environments.single_action_space.shape), np.float32)
    for step in range(63):  # of 8 ms
        environments.task.qpos[1] = environments.task.model.qpos0
        environments.task.qvel[1] = 0
        observations, rewards, _, _, info = environments.step(still)
        assert rewards[0] == -1 and rewards[1] > 0.5
        assert environments.stood_up.tolist() == [step == 62, False]
        assert info["reward_survive"].tolist() == [0, 1]
    np.testing.assert_allclose(observations[0], start[0], atol=0.02)
    assert environments.step(still)[4]["reward_survive"].tolist() == [1, 1]
    assert not environments.stood_up.any()


@every_id
def test_building_warns_of_nothing(name, mujoco_warnings):
    vector(name).reset(seed=0)
    assert not mujoco_warnings
