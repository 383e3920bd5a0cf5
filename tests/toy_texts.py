"""Small language environments, a teacher, and a run of a second.

For tests of killed runs: `TOY_KILL_AT_TURN` kills the process at that step of its environments,
`TOY_KILL_AT_ANSWER` at that answer of the teacher, as `kill -9` does.
"""

import os
import signal
from pathlib import Path

import gymnasium
import numpy as np

from prefrl.config.experiment import Experiment
from prefrl.config.learning import FitConfig, QueryConfig
from prefrl.config.text import TextConfig, TextPPOConfig, TextRewardConfig
from prefrl.text import FreeText
from prefrl.text.models.load import save_language_model, tiny_language_model

SUBJECTS = ("rain", "music", "a long walk", "")


class Letters(gymnasium.Env):
    """One turn: the reward is the share of ASCII in a reply, half of it at first."""

    metadata = {"render_modes": [], "question": "Which reply is plainer?"}  # noqa: RUF012
    turns = 0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = self.action_space = FreeText()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return SUBJECTS[int(self.np_random.integers(len(SUBJECTS)))] + ": ", {}

    def step(self, action):
        Letters.turns += 1
        if Letters.turns == int(os.environ.get("TOY_KILL_AT_TURN", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
        plain = sum(character.isascii() for character in action)
        return "", plain / max(1, len(action)), True, False, {"length": len(action)}


class Talk(gymnasium.Env):
    """One to four turns, by the seed; the environment repeats what it was told."""

    metadata = {"render_modes": [], "question": "Which talk is plainer?"}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = self.action_space = FreeText()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 5))
        return SUBJECTS[int(self.np_random.integers(len(SUBJECTS)))], {}

    def step(self, action):
        self.left -= 1
        plain = sum(character.isascii() for character in action)
        return f"You said {action!r}.", float(plain), self.left == 0, False, {"left": self.left}


class Wordy(Letters):
    """Begins with more than a small model can look at."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0] + 300 * "word ", {}


def prefer_plainer(left, right):
    """Prefer the reply with more ASCII; like the environment, which says so only to the oracle."""
    prefer_plainer.asked += 1
    if prefer_plainer.asked == int(os.environ.get("TOY_KILL_AT_ANSWER", "-1")):
        os.kill(os.getpid(), signal.SIGKILL)
    shares = [sum(map(str.isascii, "".join(s.actions.tolist()))) for s in (left, right)]
    return 0.5 + 0.5 * float(np.sign(shares[0] - shares[1]))


prefer_plainer.asked = 0


class Odd(Letters):
    """Reports numbers under the names of the run's own."""

    def step(self, action):
        names = ("true_return", "kl", "entropy", "policy_loss", "steps", "round", "own")
        return *super().step(action)[:4], dict.fromkeys(names, -7.0)


class Two(Letters):
    """Two aspects: to be plain, and to be short."""

    metadata = Letters.metadata | {
        "aspects": {"plain": "Which reply is plainer?", "short": "Which reply is shorter?"}
    }

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        info["aspects"] = {"plain": reward, "short": -len(action)}
        return observation, reward, terminated, truncated, info


for _kind in (Letters, Talk, Wordy, Odd, Two):
    gymnasium.register(f"texts/{_kind.__name__}-v0", _kind, disable_env_checker=True)


def save_small_model(folder: Path, **sizes) -> Path:
    """Write a language model of some ten thousand parameters, which knows nothing."""
    sizes = {"layers": 2, "width": 16, "heads": 2, "context": 256} | sizes
    save_language_model(tiny_language_model(0, **sizes), folder)
    return folder


def tiny_text(model, ppo=None, reward_model=None, text=None, **changes):
    """Return an experiment of a second: 4 rounds of two updates of 8 replies, 16 labels."""
    ppo = {
        "episodes": 8, "completions_per_task": 4, "batch_size": 4, "n_epochs": 2,
        "learning_rate": 3e-3, "kl_coef": 0.02,
    } | (ppo or {})  # fmt: skip
    fields = {
        "env": "texts/Letters-v0",
        "labels": 16,
        "steps": 64,
        "rounds": 4,
        "fit": FitConfig(learning_rate=1e-2, first_epochs=3, epochs=2, l2=0.0),
        "query": QueryConfig(explore_steps=8, decay_steps=64),
        "domain": TextConfig(
            str(model), max_new_tokens=6, ppo=TextPPOConfig(**ppo),
            reward_model=TextRewardConfig(**{"members": 2} | (reward_model or {})), **text or {},
        ),
    }  # fmt: skip
    return Experiment(**fields | changes)


TINY_TEXT_FLAGS = (
    "--labels 16 --steps 64 --rounds 4 --fit.learning-rate 1e-2 --fit.first-epochs 3 "
    "--fit.epochs 2 --fit.l2 0 --query.explore-steps 8 --query.decay-steps 64 "
    "--text.max-new-tokens 6 --text.ppo.episodes 8 --text.ppo.completions-per-task 4 "
    "--text.ppo.batch-size 4 --text.ppo.n-epochs 2 --text.ppo.learning-rate 3e-3 "
    "--text.ppo.kl-coef 0.02 --text.reward-model.members 2"
)
"""The same for the command line, less the environment and the model."""
