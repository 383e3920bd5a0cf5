"""The kit of a MuJoCo task: written once, over arrays, run many at a time.

A task is a subclass of `Task`: how to reset, what is observed, what is rewarded. `MujocoVectorEnv`
runs it for many simulations on a thread pool (`mujoco.batch`), `MujocoEnv` for one. Row i of the
vector environment equals the single environment reset with `seed + i`, to the bit.
"""

# MuJoCo's bindings come without type stubs.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from mujoco.batch import Batch

VELOCITY_STAGE = int(mujoco.mjtStage.mjSTAGE_VEL)
BAD_STATE = [
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
    int(mujoco.mjtWarning.mjWARN_BADCTRL),
]


def gymnasium_asset(name: str) -> mujoco.MjSpec:
    """Return the spec of one of Gymnasium's own MuJoCo models, for example "hopper.xml"."""
    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    return mujoco.MjSpec.from_file(str(folder / name))


def add_contact_sensors(spec: mujoco.MjSpec, floor: str, geoms: tuple[str, ...]) -> None:
    """Add one sensor per geom that counts its contacts with the floor.

    The physics stay the same to the bit. Contacts themselves live in MuJoCo's arena and cannot be
    read from a batch.
    """
    for geom in geoms:
        spec.add_sensor(
            name=f"{geom} on {floor}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_GEOM,
            objname=floor,
            reftype=mujoco.mjtObj.mjOBJ_GEOM,
            refname=geom,
            intprm=[1, 0, 1],
        )


class Task:
    """One MuJoCo task over `count` simulations; every array has a leading axis `[count]`.

    A subclass sets the class attributes and defines `build_model`, `initial_state`, `observe`,
    `clear` and `evaluate`. `qpos`, `qvel` and `ctrl` are live views of the simulations' state;
    `memory` holds whatever the task must remember within an episode, one array per name. Those that
    `remembers` and `counts` name are one number a simulation, and 0 when an episode starts; counts
    go on where a body starts again within its episode.
    """

    question: ClassVar[str]
    clip_seconds: ClassVar[float]
    frame_skip: ClassVar[int]
    remembers: ClassVar[tuple[str, ...]] = ()
    counts: ClassVar[tuple[str, ...]] = ()
    aspects: ClassVar[dict[str, str]] = {}  # what each asks; `evaluate` reports them as "aspects"
    guide: ClassVar[dict[str, Any]] = {}  # what whoever answers needs to know; see `guides`
    up_to_date: ClassVar[bool] = False  # see `advance`
    persistent: ClassVar[bool] = False  # keeps all that a step computed, for the next, or to read

    def __init__(self, count: int, threads: int):
        self.model = self.build_model()
        self.count = count
        self.batch = Batch(self.model, count, threads, self.persistent)
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.dt = self.model.opt.timestep * self.frame_skip
        self.generators = [np.random.default_rng() for _ in range(count)]
        self.memory: dict[str, np.ndarray] = {
            name: np.zeros(count) for name in self.remembers + self.counts
        }
        self.sensors = np.zeros((count, self.frame_skip, self.model.nsensordata))
        self.clear(np.arange(count))

    def build_model(self) -> mujoco.MjModel:
        """Return the compiled model."""
        raise NotImplementedError

    def initial_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return one `qpos [nq]` and `qvel [nv]` to start an episode from."""
        raise NotImplementedError

    def observe(self) -> np.ndarray:
        """Return the observations `[count, feature]`, float64, freshly allocated."""
        raise NotImplementedError

    def clear(self, rows: np.ndarray) -> None:
        """Forget, for these rows, what the task remembered of the episode that ended."""

    def evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the reward `[count]` of the step just made, and numbers to report.

        It may move the simulations afterwards, as a person would who sets a robot on its feet.

        Args:
            action: as given by the caller, `[count, nu]`.
            before: `qpos` before the step, `[count, nq]`.
        """
        raise NotImplementedError

    def stood_up(self) -> np.ndarray | None:
        """Return which bodies were stood up after the last step, bool `[count]`.

        None in a task that stands nobody up.
        """
        return self.memory["started_again"] > 0 if "started_again" in self.memory else None

    def start_again(self, down: np.ndarray, seconds: float) -> None:
        """Start those anew, within their episode, that have been down for so long.

        The task `remembers` "down_steps", for how long each has been down, and "started_again".

        Args:
            down: which are down after this step, bool `[count]`.
            seconds: for how long one may be.
        """
        down_steps = np.where(down, self.memory["down_steps"] + 1, 0)
        again = down_steps >= seconds / self.dt
        self.memory["down_steps"][:] = down_steps
        if again.any():
            self.start(np.flatnonzero(again))
        self.memory["started_again"][:] = again

    def reset_info(self) -> dict[str, np.ndarray]:
        """Return the numbers that a reset reports, `[count]` each."""
        return {}

    def reset(self, rows: np.ndarray) -> None:
        """Start a new episode in these rows, each drawn from its row's generator."""
        for name in self.counts:
            self.memory[name][rows] = 0.0
        self.start(rows)

    def start(self, rows: np.ndarray) -> None:
        """Put these simulations into initial states, with nothing to remember."""
        self.place(rows)
        for name in self.remembers:
            self.memory[name][rows] = 0.0
        self.clear(rows)

    def place(self, rows: np.ndarray) -> None:
        """Put these simulations into initial states, each drawn from its row's generator."""
        self.batch.reset(rows, stage=0)
        for row in rows:
            self.qpos[row], self.qvel[row] = self.initial_state(self.generators[row])
        self.batch.forward(rows)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        """Advance every simulation by one control step.

        Raises:
            FloatingPointError: MuJoCo met a value that is not finite and reset a simulation.
        """
        before = self.qpos.copy()
        self.advance(action)
        if self.batch.warning[:, BAD_STATE].any():
            self.raise_unstable(action)
        return self.evaluate(action, before)

    def advance(self, action: np.ndarray) -> None:
        """Make the substeps of one control step, and keep what the sensors said in each.

        What MuJoCo derives of the state (`xpos`, sensors) is of the last substep's beginning. Where
        the task is `up_to_date`, what is derived of positions and velocities is of its end, and the
        sensors' earlier values are not kept.
        """
        if self.up_to_date:
            self.batch.bind("ctrl")[:] = action
            self.batch.step(nstep=self.frame_skip, stage=VELOCITY_STAGE)
            return
        out = self.batch.rollout(
            self.frame_skip,
            np.asarray(action)[:, None],
            record=("sensordata",),
            out={"sensordata": self.sensors} if self.model.nsensordata else None,
        )
        self.sensors = out["sensordata"]

    def action_range(self) -> np.ndarray:
        """Return the lowest and highest value of each action, `[action, 2]`."""
        return self.model.actuator_ctrlrange

    def raise_unstable(self, action: np.ndarray) -> None:
        """Say which simulation became unstable; MuJoCo itself only resets it silently."""
        rows = np.flatnonzero(self.batch.warning[:, BAD_STATE].reshape(self.count, -1).any(1))
        raise FloatingPointError(
            f"MuJoCo reset simulation {rows[0]} because its state or control was not finite "
            f"(action {np.asarray(action)[rows[0]].tolist()}); give finite actions, or lower "
            "the learning rate if they are: the policy has found an unstable state of the model"
        )

    def touches(self) -> np.ndarray:
        """Return whether each sensed geom touched the floor in any substep, bool `[count, geom]`.

        A sensor lags one substep (2 ms) behind the state, as everything MuJoCo derives does.
        """
        return np.any(self.sensors > 0, axis=1)


class MujocoVectorEnv(VectorEnv):
    """`num_envs` simulations of a task, of fixed horizon, reset in the step that ends an episode.

    Besides Gymnasium's interface it has `qpos`, the live state a clip is redrawn from, and
    `get_state` and `set_state`, with which a run resumes to the bit, and `branch`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (as Gymnasium declares it)
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": [],
    }

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        max_episode_steps: int = 1000,
        render_mode: str | None = None,
        threads: int = 2,
    ):
        """Build the simulations; `task` is "module:Class"."""
        self.task = _load(task, num_envs, threads)
        self.metadata = self.metadata | _task_metadata(self.task)
        self.num_envs, self.render_mode, self.horizon = num_envs, render_mode, max_episode_steps
        self.single_observation_space, self.single_action_space = _spaces(self.task)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.elapsed = np.zeros(num_envs, np.int64)

    @property
    def model(self) -> mujoco.MjModel:
        """The MuJoCo model that all simulations share."""
        return self.task.model

    @property
    def qpos(self) -> np.ndarray:
        """The joint positions, a live view `[num_envs, nq]`."""
        return self.task.qpos

    @property
    def stood_up(self) -> np.ndarray | None:
        """Which bodies were stood up after the last step, bool `[num_envs]`; None if none ever."""
        return self.task.stood_up()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every row; row i is seeded with `seed + i` or `seed[i]`."""
        if isinstance(seed, int):
            seed = [seed + row for row in range(self.num_envs)]
        for row, row_seed in enumerate(seed or []):
            if row_seed is not None:
                self.task.generators[row] = seeding.np_random(row_seed)[0]
        self.task.reset(np.arange(self.num_envs))
        self.elapsed[:] = 0
        everywhere = np.ones(self.num_envs, bool)
        return self.task.observe(), _with_masks(self.task.reset_info(), everywhere)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance one control step; rows that reach the horizon are reset before this returns."""
        reward, values = self.task.step(actions)
        self.elapsed += 1
        observation, truncated = self.task.observe(), self.elapsed >= self.horizon
        info = _with_masks(values, ~truncated)
        if truncated.any():
            rows = np.flatnonzero(truncated)
            final = np.full(self.num_envs, None, object)
            final[rows] = list(observation[rows])
            info |= {"final_obs": final, "_final_obs": truncated.copy()}
            info |= {"final_info": _with_masks(values, truncated), "_final_info": truncated.copy()}
            self.task.reset(rows)
            self.elapsed[rows] = 0
            observation = self.task.observe()
        return observation, reward, np.zeros(self.num_envs, bool), truncated, info

    def get_state(self) -> dict[str, Any]:
        """Return all that the next step depends on: arrays, ints, lists and dicts."""
        return {
            "physics": self.task.batch.state.copy(),
            "elapsed": self.elapsed.copy(),
            "memory": {name: array.copy() for name, array in self.task.memory.items()},
            "generators": [generator.bit_generator.state for generator in self.task.generators],
        }

    def branch(self, rows: np.ndarray) -> np.ndarray:
        """Let each row go on from the state of another one, its episode too.

        What is random later is drawn from each row's own generator as before.

        Args:
            rows: whose state each row takes, `[num_envs]`.

        Returns:
            The observations `[num_envs, …]`.
        """
        self.task.batch.state[:] = self.task.batch.state[rows]
        self.elapsed[:] = self.elapsed[rows]
        for array in self.task.memory.values():
            array[:] = array[rows]
        return self.task.observe()

    def set_state(self, state: dict[str, Any]) -> np.ndarray:
        """Continue from what `get_state` returned and return the observations `[num_envs, …]`."""
        self.task.batch.state[:] = state["physics"]
        self.elapsed[:] = state["elapsed"]
        for name, array in state["memory"].items():
            self.task.memory[name][:] = array
        for generator, saved in zip(self.task.generators, state["generators"], strict=True):
            generator.bit_generator.state = saved
        return self.task.observe()


class MujocoEnv(gymnasium.Env):
    """One simulation of a task; `gymnasium.make` adds the time limit."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, task: str, render_mode: str | None = None):
        """Build the simulation; `task` is "module:Class"."""
        self.task = _load(task, 1, 1)
        self.metadata = self.metadata | _task_metadata(self.task)
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces(self.task)

    @property
    def model(self) -> mujoco.MjModel:
        """The MuJoCo model."""
        return self.task.model

    @property
    def qpos(self) -> np.ndarray:
        """The joint positions, a live view `[nq]`."""
        return self.task.qpos[0]

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self.task.generators[0] = self.np_random
        self.task.reset(np.arange(1))
        return self.task.observe()[0], {name: v[0] for name, v in self.task.reset_info().items()}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance one control step; the task itself never ends an episode."""
        reward, values = self.task.step(np.asarray(action)[None])
        info = _of_first(values)
        return self.task.observe()[0], float(reward[0]), False, False, info


def _load(task: str, count: int, threads: int) -> Task:
    kind: Any = load_env_creator(task)
    return kind(count, threads)


def _task_metadata(task: Task) -> dict[str, Any]:
    return {
        "render_fps": round(1 / task.dt),
        "question": task.question,
        "clip_seconds": task.clip_seconds,
        "guide": task.guide,
    } | ({"aspects": dict(task.aspects)} if task.aspects else {})


def _spaces(task: Task) -> tuple[Box, Box]:
    size = task.observe().shape[1]
    low, high = task.action_range().astype(np.float32).T
    return Box(-np.inf, np.inf, (size,), np.float64), Box(low, high, dtype=np.float32)


def _with_masks(values: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    info: dict[str, Any] = {}
    for name, value in values.items():
        inner = _with_masks(value, mask) if isinstance(value, dict) else value
        info[name], info[f"_{name}"] = inner, mask.copy()
    return info


def _of_first(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _of_first(value) if isinstance(value, dict) else value[0]
        for name, value in values.items()
    }
