"""Small environments and teachers for tests; importing this registers them as `toy/…`.

`python -m prefrl.cli train --env toy_environments:toy/Pay-v0` works with this folder on PYTHONPATH.
"""

import dataclasses
import os
import signal
import time
from typing import ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode

from prefrl.config.control import ControlConfig, PPOConfig, RewardConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learning import QueryConfig

HORIZON = 20


class Pay(gymnasium.Env):
    """Observes (step / 10, phase); the phase is the episode's own number, drawn at reset.

    The true reward is the action, or what `pay` says of it. TOY_KILL_AT_STEP kills the process at
    that step, counted over all environments; TOY_SLEEP sleeps so many seconds in each.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 20}
    steps_made = 0

    def __init__(self, pay="action", render_mode=None):
        self.pay, self.render_mode = pay, render_mode
        self.observation_space = Box(-10, 10, (2,), np.float64)
        self.action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_number, self.phase = 0, self.np_random.uniform(-1, 1)
        return self.observe(), {}

    def observe(self):
        return np.array([self.step_number / 10, self.phase])

    def step(self, action):
        Pay.steps_made += 1
        if Pay.steps_made == int(os.environ.get("TOY_KILL_AT_STEP", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        self.step_number += 1
        push = float(action[0])
        rewards = {"action": push, "thousandfold": 1000 * push, "other": np.cos(99 * self.phase)}
        return self.observe(), float(rewards[self.pay]), False, False, {"push": push}

    def render(self):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[:, : 3 * self.step_number] = 255
        return picture


class Ends(Pay):
    """Terminates by itself after 5 to 14 steps; pays 1 a step and refuses steps after the end."""

    def step(self, action):
        length = 5 + int(4.999 * (1 + self.phase))
        assert self.step_number < length, "stepped after the end"
        observation, _, _, _, info = super().step(action)
        ended = self.step_number == length
        if ended:
            info |= {"only_at_the_end": 1.0, "ragged": [[1], [1, 2]], "word": "fell"}
        return observation, 1.0, ended, False, info


class Odd(Pay):
    """Reports numbers under names that prefrl uses itself, and some only in some episodes."""

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        info |= {"true_return": -1.0, "steps": -1.0, "round": -1.0, "episodes": -1.0}
        info["only_upward" if self.phase > 0 else "only_downward"] = 1.0
        return observation, reward, terminated, truncated, info


class Blind(Pay):
    """Draws no pictures, and knows nothing of ways to."""

    metadata: ClassVar = {"render_modes": []}

    def __init__(self):
        super().__init__()


class Unseen(Pay):
    """Says that it draws itself, and cannot."""

    def render(self):
        raise RuntimeError("the canvas is torn")


class Deaf(Pay):
    """Says that it draws itself, but takes no render mode."""

    def __init__(self):
        super().__init__()


class Random(Pay):
    """Draws noise that no seed reaches."""

    def observe(self):
        return super().observe() + np.random.default_rng().uniform(0, 0.1, 2)


class Spaces(Pay):
    """Has other spaces."""

    def __init__(self, observation_space=None, action_space=None):
        super().__init__()
        self.observation_space = observation_space or self.observation_space
        self.action_space = action_space or self.action_space


class NotFinite(Pay):
    """Returns NaN somewhere: as "reward", as "observation" or at "reset"."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return observation * (np.nan if self.where == "reset" else 1), info

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        if self.step_number == 3:
            reward *= np.nan if self.where == "reward" else 1
            observation = observation * (np.nan if self.where == "observation" else 1)
        return observation, reward, terminated, truncated, info


class Fast(gymnasium.vector.VectorEnv):
    """A vector environment that is built and never run."""

    def __init__(self, mode, savable, num_envs, max_episode_steps):
        self.metadata = {"autoreset_mode": mode}
        if savable:
            self.get_state = self.set_state = None


def needs_a_package():
    raise gymnasium.error.DependencyNotInstalled("the toy needs `pip install toyland`")


def prefer_larger(left, right):
    """Prefer the clip with the larger actions; TOY_KILL_AT_ANSWER kills the process first."""
    prefer_larger.asked += 1
    if prefer_larger.asked == int(os.environ.get("TOY_KILL_AT_ANSWER", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
    return float(left.actions.mean() > right.actions.mean())


prefer_larger.asked = 0


def register(name, entry_point, max_episode_steps=HORIZON, **kwargs):
    gymnasium.register(
        f"toy/{name}-v0",
        entry_point,
        max_episode_steps=max_episode_steps,
        kwargs=kwargs,
        disable_env_checker=True,
    )


register("Pay", Pay)
register("PayThousandfold", Pay, pay="thousandfold")
register("PayOther", Pay, pay="other")
register("Ends", Ends)
register("Odd", Odd)
register("Random", Random)
register("Blind", Blind)
register("Unseen", Unseen)
register("Pixels", Spaces, observation_space=Box(0, 255, (4, 4, 3), np.uint8))
register("Dictionary", Spaces, observation_space=Dict({"a": Box(0, 255, (8, 8, 3), np.uint8)}))
register("Levers", Spaces, action_space=MultiDiscrete([2, 3]))
register("Offset", Spaces, action_space=Discrete(3, start=1))
register("Endless", Pay, max_episode_steps=None)
register("NanReward", NotFinite, where="reward")
register("NanObservation", NotFinite, where="observation")
register("NanReset", NotFinite, where="reset")
for _name, _options in {
    "FastNextStep": {"mode": AutoresetMode.NEXT_STEP, "savable": True},
    "FastUnsaved": {"mode": AutoresetMode.SAME_STEP, "savable": False},
}.items():
    gymnasium.register(
        f"toy/{_name}-v0",
        entry_point=lambda **_: Pay(),
        vector_entry_point=Fast,
        max_episode_steps=HORIZON,
        kwargs=_options,
        disable_env_checker=True,
    )
register("Package", needs_a_package)
register("Module", "no_such_module_anywhere:Env")


TINY = ControlConfig(
    num_envs=4,
    ppo=PPOConfig(n_steps=16, batch_size=64, n_epochs=2, hidden=(8,)),
    reward_model=RewardConfig(hidden=(8,)),
)


def tiny(**changes):
    """Return an experiment of a second: 4 rounds of 2 rollouts of 64 steps, 16 labels.

    Args:
        changes: of its fields, and of those of its `ControlConfig`.
    """
    own = {name: changes.pop(name) for name in vars(TINY) if name in changes}
    fields = {
        "env": "toy/Pay-v0",
        "labels": 16,
        "steps": 512,
        "rounds": 4,
        "threads": 1,
        "domain": dataclasses.replace(TINY, **own),
        "query": QueryConfig(explore_steps=256),
    }
    return Experiment(**fields | changes)


TINY_FLAGS = (
    "--labels 16 --steps 512 --rounds 4 --num-envs 4 --threads 1 --ppo.n-steps 16 "
    "--ppo.batch-size 64 --ppo.n-epochs 2 --ppo.hidden 8 --reward-model.hidden 8 "
    "--query.explore-steps 256"
)
"""The same for the command line, less the environment."""


class Two(Pay):
    """Two aspects: to push, and to push back; the reward is their sum, which is nothing."""

    metadata: ClassVar = Pay.metadata | {
        "aspects": {"push": "Which pushes more?", "rest": "Which rests more?"}
    }

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        info["aspects"] = {"push": reward, "rest": -abs(reward)}
        return observation, reward - abs(reward), terminated, truncated, info


register("Two", Two)


class Screen(Pay):
    """Observes a picture: white columns, a step each, above a line as grey as the phase.

    `shape` gives its axes, of which the first two of length 8 are its rows and columns.
    """

    def __init__(self, shape=(8, 8, 1), length=None, **options):
        super().__init__(**options)
        self.length = length
        self.observation_space = Box(0, 255, shape, np.uint8)

    def observe(self):
        screen = np.zeros((8, 8), np.uint8)
        screen[:7, : self.step_number % 9] = 255
        screen[7] = 128 + int(100 * self.phase)
        shape = self.observation_space.shape
        first = shape.index(8)
        lined_up = screen.reshape(*[1] * first, 8, 8, *[1] * (len(shape) - first - 2))
        return np.broadcast_to(lined_up, shape).copy()

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, self.step_number == self.length, truncated, info


class Levers(Screen):
    """Likewise, with three levers to choose from; the third one pays."""

    def __init__(self, **options):
        super().__init__(**options)
        self.action_space = Discrete(3)

    def step(self, action):
        return super().step([float(action == 2)])


register("Screen", Screen)
register("ScreenEnds", Screen, length=9)
register("ScreenStack", Screen, shape=(4, 8, 8))
register("ScreenLevers", Levers)
