"""Our tasks are those of dm_control, to the bit."""

import gymnasium
import mujoco
import numpy as np
import pytest
from dm_control.mujoco.wrapper.mjbindings import sizes
from dm_control.utils.rewards import tolerance
from prefrl.envs.deepmind import CheetahRun, at_least
from test_envs import actions_of, vector

TASKS = {
    "WalkerWalk": ("walker", "walk"),
    "WalkerRun": ("walker", "run"),
    "CheetahRun": ("cheetah", "run"),
    "QuadrupedWalk": ("quadruped", "walk"),
    "QuadrupedRun": ("quadruped", "run"),
}
ROWS = 3


@pytest.fixture(scope="module")
def suite():
    """Import the suite; dm_control 1.0.50 looks for fields that MuJoCo 4 no longer has."""
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    for kind, instance in (("mjmodel", model), ("mjdata", mujoco.MjData(model))):
        names = sizes.array_sizes[kind]
        for name in [name for name in names if not hasattr(instance, name)]:
            del names[name]
    from dm_control import suite

    return suite


@pytest.fixture(scope="module", params=TASKS)
def both(request, suite):
    """Return our environments and as many of dm_control's."""
    theirs = [suite.load(*TASKS[request.param]) for _ in range(ROWS)]
    return vector(f"prefrl/{request.param}-v0", ROWS, 1000), theirs


def flat(step):
    return np.concatenate([np.ravel(value) for value in step.observation.values()])


def test_an_episode_begins_as_in_dm_control(both, monkeypatch):
    ours, theirs = both
    ours.task.generators = [np.random.RandomState(row) for row in range(ROWS)]
    observations = ours.reset()[0]
    for row, environment in enumerate(theirs):
        physics, environment.task._random = environment.physics, np.random.RandomState(row)
        if isinstance(ours.task, CheetahRun):  # theirs begins to settle from another pose's forces
            with monkeypatch.context() as patch:
                patch.setattr(type(physics), "step", lambda physics, nstep: None)
                environment.reset()
            drawn, _ = ours.task.initial_state(np.random.RandomState(row))
            np.testing.assert_array_equal(physics.data.qpos, drawn)
            physics.step(nstep=200)
            expected = np.concatenate([physics.data.qpos[1:], physics.data.qvel])
        else:
            expected = flat(environment.reset())
        np.testing.assert_array_equal(ours.qpos[row], physics.data.qpos)
        np.testing.assert_allclose(observations[row], expected, rtol=0, atol=1e-6)
    assert len(np.unique(observations, axis=0)) == ROWS


def test_steps_are_those_of_dm_control_to_the_bit(both):
    ours, theirs = both
    assert ours.single_observation_space.shape == flat(theirs[0].reset()).shape
    assert (ours.single_action_space.low == -1).all() and (ours.single_action_space.high == 1).all()
    assert ours.task.dt == theirs[0].control_timestep()
    assert gymnasium.spec(ours.spec.id).max_episode_steps == theirs[0]._step_limit
    ours.reset(seed=0)
    ours.task.qvel[2, :2] = 4.0  # so fast that speed pays
    for row, environment in enumerate(theirs):
        environment.reset()
        model, data = environment.physics.model.ptr, environment.physics.data.ptr
        whole = mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_setState(model, data, ours.task.batch.state[row], whole)
        mujoco.mj_step1(model, data)
    low, high = theirs[0].action_spec().minimum, theirs[0].action_spec().maximum
    paid = []
    for action in actions_of(ours, 40):
        observations, rewards, *_ = ours.step(action)
        scaled = low + (action.astype(np.float64) + 1) / 2 * (high - low)
        steps = [environment.step(a) for environment, a in zip(theirs, scaled, strict=True)]
        np.testing.assert_array_equal(observations, [flat(step) for step in steps])
        np.testing.assert_allclose(rewards, [step.reward for step in steps], rtol=0, atol=1e-12)
        paid.append(rewards)
    assert np.ptp(paid) > 0.1


@pytest.mark.parametrize("sigmoid", ["linear", "gaussian"])
@pytest.mark.parametrize(("least", "margin", "pay"), [(1.2, 0.6, 0.1), (5.0, 5.0, 0.5)])
def test_pay_is_dm_controls_tolerance(sigmoid, least, margin, pay):
    values = np.linspace(-20, 20, 401)
    expected = tolerance(values, (least, np.inf), margin, sigmoid, pay)
    np.testing.assert_allclose(
        at_least(values, least, margin, pay, sigmoid == "linear"), expected, rtol=0, atol=1e-15
    )
