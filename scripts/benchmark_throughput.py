"""How fast is the loop, beside Stable-Baselines3 on the same machine in the same run?

Prints one JSON object for HalfCheetah: steps per second of the physics alone, of true-reward
training, of the whole preference loop, and of Stable-Baselines3's PPO over DummyVecEnv (8
environments with its defaults; 64 with our settings) and over EnvPool (64 with our settings), their
ratios, the returns reached, the share of wall time spent in fits, the seconds of a refit, and the
peak memory. Each part runs in a process of its own; the physics and the Stable-Baselines3 lines are
measured before and after the loop and averaged, since machines drift. EnvPool's lines are null
where it is not installed: `pip install -e '.[benchmark]'`.

    python scripts/benchmark_throughput.py --steps 2000000 --labels 700
    python scripts/benchmark_throughput.py --kind ranking --labels 233    # as many clips
"""

import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import prefrl.envs  # pyright: ignore[reportMissingImports]
import torch
import tyro

from prefrl.config.control import RewardConfig
from prefrl.config.experiment import Experiment
from prefrl.config.presets import preset
from prefrl.control.agents.networks import policy_options
from prefrl.control.agents.ppo import PPOAgent
from prefrl.control.environments.adapters import make_environments
from prefrl.control.reward import RewardEnsemble
from prefrl.learning.reward import FitState, fit
from prefrl.learning.selection import cut, propose
from prefrl.types import Comparison, QueryId

NEW_COMPARISONS = 50  # at the second fit of a refit
STEPS_PER_COMPARISON = 100  # of the untrained policy, which clips are cut from


@dataclass(frozen=True)
class Arguments:
    """How much to run."""

    steps: int = 2_000_000
    """Steps of our runs."""
    rounds: int | None = None
    """Rounds of our runs; the preset's by default."""
    labels: int = 700
    """Budget of labels."""
    kind: Literal["preference", "ranking"] = "preference"
    """Pairs, or orders of six."""
    peer_steps: int = 150_000
    """Steps of each Stable-Baselines3 measurement."""
    physics_steps: int = 2000
    """Steps of each of 64 simulations in the measurement of the physics."""
    comparisons: int = 1000
    """Comparisons of a refit."""
    seed: int = 0
    """Seed of our runs."""
    part: str | None = None
    """Run one part alone (used by the script itself)."""


def main() -> None:
    """Run every part in a process of its own and print the figures."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    peers = ["physics", "dummy", "dummy_64"]
    if importlib.util.find_spec("envpool"):
        peers += ["envpool_physics", "envpool"]
    order = [*peers, "true", "loop", *peers, "refit"]
    rates: dict[str, list[dict[str, Any]]] = {}
    for part in order:
        print(f"{part} …", file=sys.stderr, flush=True)
        words = [word for name, value in asdict(arguments).items() if value is not None
                 for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
        command = [sys.executable, __file__, "--part", part, *words]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
        rates.setdefault(part, []).append(json.loads(done.stdout.splitlines()[-1]))
    print(json.dumps(summary(arguments, rates), indent=1))


def summary(arguments: Arguments, rates: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Put the parts together."""
    speed = {name: float(np.mean([run["rate"] for run in runs])) for name, runs in rates.items()
             if name != "refit"}  # fmt: skip
    loop, refit = rates["loop"][0], rates["refit"][0]
    return {
        "env": "prefrl/HalfCheetah-v0",
        "steps": arguments.steps,
        "labels": arguments.labels,
        "kind": arguments.kind,
        "physics_steps_per_s": speed["physics"],
        "true_reward_steps_per_s": speed["true"],
        "loop_steps_per_s": speed["loop"],
        "sb3_dummy_steps_per_s": speed["dummy"],
        "sb3_dummy_64_steps_per_s": speed["dummy_64"],
        "sb3_envpool_steps_per_s": speed.get("envpool"),
        "envpool_physics_steps_per_s": speed.get("envpool_physics"),
        "loop_over_physics": speed["loop"] / speed["physics"],
        "loop_over_sb3_dummy": speed["loop"] / speed["dummy"],
        "loop_over_sb3_dummy_64": speed["loop"] / speed["dummy_64"],
        "loop_over_sb3_envpool": speed["loop"] / speed["envpool"] if "envpool" in speed else None,
        "loop_over_true_reward": speed["loop"] / speed["true"],
        "true_reward_return": rates["true"][0]["return"],
        "loop_return": loop["return"],
        "fit_share_of_wall_time": loop["fit_share"],
        "refit": refit,
        "peak_memory_gib": loop["peak_gib"],
    }


def physics(arguments: Arguments) -> dict[str, Any]:
    """Step 64 simulations with random actions."""
    environments = gymnasium.make_vec("prefrl/HalfCheetah-v0", num_envs=64)
    environments.reset(seed=0)
    count = arguments.physics_steps
    actions = np.random.default_rng(0).uniform(-1, 1, (count, 64, 6)).astype(np.float32)
    began = time.perf_counter()
    for action in actions:
        environments.step(action)
    return {"rate": count * 64 / (time.perf_counter() - began)}


def our_run(arguments: Arguments, reward: str) -> dict[str, Any]:
    """Run the preset as the command line does, checkpoints and all."""
    from prefrl.control.build import fresh_environments
    from prefrl.runs.load import load_policy
    from prefrl.runs.session import rounds, start

    experiment = preset("half-cheetah").experiment
    experiment = replace(
        experiment, steps=arguments.steps, rounds=arguments.rounds or experiment.rounds,
        labels=arguments.labels, seed=arguments.seed, reward=reward,
        query=replace(experiment.query, kind=arguments.kind),
    )  # fmt: skip
    from prefrl.control.policy import evaluate

    with tempfile.TemporaryDirectory() as folder:
        session = start(experiment, Path(folder) / "run")
        began = time.perf_counter()
        for _ in rounds(session):
            pass
        seconds = time.perf_counter() - began
        fits = sum(line.get("fit", 0) for line in session.folder.timings())
        steps = session.state.steps + experiment.query.explore_steps
        policy = load_policy(session.folder.path)
        achieved = evaluate(fresh_environments(experiment, 20, 0), policy)
    return {
        "rate": steps / seconds,
        "return": achieved.true_return["mean"],
        "fit_share": fits / seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def dummy(arguments: Arguments, our_settings: bool) -> dict[str, Any]:
    """Train Stable-Baselines3's PPO over Gymnasium's own HalfCheetah in DummyVecEnv."""
    import mujoco
    from stable_baselines3.common.vec_env import DummyVecEnv

    mujoco.set_mju_user_warning(lambda message: None)  # type: ignore[attr-defined]
    count = 64 if our_settings else 8
    environments = DummyVecEnv([lambda: gymnasium.make("HalfCheetah-v5")] * count)
    return peer(arguments, environments, our_settings)


def peer(arguments: Arguments, environments: Any, our_settings: bool) -> dict[str, Any]:
    """Train Stable-Baselines3's PPO."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecNormalize

    config = preset("half-cheetah").experiment.control.ppo
    longest = arguments.peer_steps // environments.num_envs  # no rollout outlasts the measurement
    options: dict[str, Any] = {"n_steps": min(2048, longest)}
    if our_settings:
        torch.set_num_threads(1)
        environments = VecNormalize(environments)
        options = {
            "n_steps": min(config.n_steps, longest), "batch_size": config.batch_size,
            "n_epochs": config.n_epochs, "gamma": config.gamma, "gae_lambda": config.gae_lambda,
            "learning_rate": config.learning_rate, "ent_coef": config.ent_coef,
            "policy_kwargs": policy_options(config),
        }  # fmt: skip
    learner = PPO("MlpPolicy", environments, device="cpu", seed=0, **options)
    began = time.perf_counter()
    learner.learn(arguments.peer_steps)
    return {"rate": learner.num_timesteps / (time.perf_counter() - began)}


def envpool(arguments: Arguments) -> dict[str, Any]:
    """Train Stable-Baselines3's PPO over EnvPool's HalfCheetah, which steps on all cores."""
    from stable_baselines3.common.vec_env import VecEnv

    pool = make_pool()

    class Adapter(VecEnv):
        """EnvPool as Stable-Baselines3 expects it, after the example in EnvPool's repository."""

        def reset(self):
            return pool.reset()[0].astype(np.float32)

        def step_async(self, actions: np.ndarray):
            self.actions = actions.astype(np.float64)

        def step_wait(self):
            observations, rewards, ended, cut, _ = pool.step(self.actions)
            observations, infos = observations.astype(np.float32), [{} for _ in rewards]
            for row in np.flatnonzero(ended | cut).tolist():
                infos[row] = {
                    "terminal_observation": observations[row].copy(),
                    "TimeLimit.truncated": bool(cut[row]),
                }
                observations[row] = pool.reset(np.array([row]))[0][0]
            return observations, rewards.astype(np.float32), ended | cut, infos

        def close(self):
            pool.close()

        def get_attr(self, attr_name: str, indices: Any = None):
            return [None] * self.num_envs

        def set_attr(self, attr_name: str, value: Any, indices: Any = None):
            raise NotImplementedError

        def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **kw: Any):
            raise NotImplementedError

        def env_is_wrapped(self, wrapper_class: type, indices: Any = None):
            return [False] * self.num_envs

    spaces = gymnasium.make("HalfCheetah-v5")
    adapter = Adapter(64, spaces.observation_space, spaces.action_space)
    return peer(arguments, adapter, our_settings=True)


def envpool_physics(arguments: Arguments) -> dict[str, Any]:
    """Step EnvPool's 64 simulations with random actions."""
    pool = make_pool()
    pool.reset()
    count = arguments.physics_steps
    actions = np.random.default_rng(0).uniform(-1, 1, (count, 64, 6))
    began = time.perf_counter()
    for action in actions:
        pool.step(action)
    return {"rate": count * 64 / (time.perf_counter() - began)}


def make_pool() -> Any:
    """Return 64 of EnvPool's HalfCheetahs, on as many threads as there are cores."""
    import envpool  # pyright: ignore[reportMissingImports]

    threads = os.cpu_count() or 1
    return envpool.make(
        "HalfCheetah-v4", env_type="gymnasium", num_envs=64, num_threads=threads, seed=0
    )


def refit(arguments: Arguments) -> dict[str, Any]:
    """Fit comparisons of 1.5 s from nothing, and again after some of them were new."""
    torch.set_num_threads(1)
    seconds = {}
    for name in ("hopper", "half-cheetah"):
        experiment = preset(name).experiment
        comparisons, description = make_comparisons(experiment, arguments.comparisons)
        size = int(np.prod(description.observation_space.shape))
        model = RewardEnsemble(size, description.action_space, RewardConfig(), seed=0)
        state = FitState(model, experiment.fit, seed=0)
        times = []
        for part in (comparisons[:-NEW_COMPARISONS], comparisons):
            began = time.perf_counter()
            fit(model, part, experiment.fit, state)
            times.append(time.perf_counter() - began)
        seconds[name] = {"cold_s": times[0], "warm_s": times[1]}
    return seconds


def make_comparisons(experiment: Experiment, count: int) -> tuple[list[Comparison], Any]:
    """Return comparisons of clips of an untrained policy, answered from the true reward."""
    environments = make_environments(experiment.env, 64, 0)
    description = environments.description
    agent = PPOAgent(environments, experiment.control.ppo, 0, 1)
    generator = np.random.default_rng(0)
    length = description.clip_steps
    trajectories = agent.explore(STEPS_PER_COMPARISON * count)
    segments, rewards = cut(trajectories, length, 2 * count, generator)
    pairs = propose(segments, count, generator)
    return [
        Comparison(a, b, float(rewards[a.id].sum() > rewards[b.id].sum()), query=QueryId(0, index))
        for index, (a, b) in enumerate(pairs)
    ], description


PARTS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "physics": physics,
    "dummy": lambda arguments: dummy(arguments, our_settings=False),
    "dummy_64": lambda arguments: dummy(arguments, our_settings=True),
    "envpool": envpool,
    "envpool_physics": envpool_physics,
    "true": lambda arguments: our_run(arguments, "true"),
    "loop": lambda arguments: our_run(arguments, "learned"),
    "refit": refit,
}

if __name__ == "__main__":
    assert prefrl.envs  # importing it registers the environments
    main()
