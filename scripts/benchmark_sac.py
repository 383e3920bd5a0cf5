"""How many steps does SAC save where a step costs time? Prints one JSON object.

Trains PPO and SAC on the true reward of an environment whose every step takes two milliseconds, and
evaluates the policy after each round. The gain is what PPO's last policy returns beyond random
actions; the report says after how many steps, exploration included, and after how many seconds each
learner has made half of it. Then a short run of SAC is killed at a random moment and resumed: it
must end with the same metrics.jsonl, to the byte, as one that was left alone.

    python scripts/benchmark_sac.py
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import gymnasium
import prefrl.envs  # pyright: ignore[reportMissingImports]
import torch
import tyro

from prefrl.config.control import ControlConfig, SACConfig
from prefrl.config.experiment import Experiment
from prefrl.config.learners import with_learner
from prefrl.config.learning import QueryConfig
from prefrl.config.presets import PRESETS

SHORT_ROUNDS = 4  # of the runs of which one is killed
HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # the environment names this module
    sys.path.insert(0, HERE)


class Slow(gymnasium.Wrapper):
    """Makes each step take some time."""

    def __init__(self, environment: gymnasium.Env, milliseconds: float):
        super().__init__(environment)
        self.seconds = milliseconds / 1000

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and wait until the time is over."""
        until = time.perf_counter() + self.seconds
        result = self.env.step(action)
        time.sleep(max(until - time.perf_counter(), 0))
        return result


def make_slow(task: str, milliseconds: float, **options: Any) -> gymnasium.Env:
    """Return a slow one of prefrl's own tasks."""
    return Slow(gymnasium.make(task, max_episode_steps=-1, **options), milliseconds)


if "slow/Task-v0" not in gymnasium.registry:  # this file may be imported beside being run
    gymnasium.register("slow/Task-v0", make_slow, max_episode_steps=1000, disable_env_checker=True)


@dataclass(frozen=True)
class Arguments:
    """How much to run."""

    preset: str = "half-cheetah"
    """The task, and PPO's settings."""
    milliseconds: float = 2.0
    """Of each step."""
    ppo_steps: int = 204_800
    """Steps of the run of PPO."""
    sac_steps: int = 24_576
    """Steps of the run of SAC."""
    explore_steps: int = 4096
    """Steps of both before the first round."""
    round_steps: int = 4096
    """About how many steps a round has, after which the policy is evaluated."""
    updates_per_step: float = SACConfig.updates_per_step
    """Gradient updates of SAC for each step."""
    episodes: int = 10
    """Of each evaluation."""
    killed_steps: int = 4096
    """Steps of the two short runs of which one is killed."""
    seed: int = 0
    """Seed of the runs."""
    part: str = ""
    """Run one part alone (used by the script itself)."""
    run: str = ""
    """Folder of a part's run (likewise)."""


def main() -> None:
    """Run each part in a process of its own and print the figures."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    found: dict[str, Any] = {}
    for part in ("random", "ppo", "sac", "killed"):
        print(f"{part} …", file=sys.stderr, flush=True)
        done = subprocess.run(
            command(arguments, part), check=True, text=True, stdout=subprocess.PIPE
        )
        found[part] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(summary(arguments, found), indent=1))


def command(arguments: Arguments, part: str) -> list[str]:
    """Return the command that runs one part alone."""
    given = asdict(replace(arguments, part=part)).items()
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given if value != ""]
    return [sys.executable, __file__, *(word for pair in words for word in pair)]


def summary(arguments: Arguments, found: dict[str, Any]) -> dict[str, Any]:
    """Put the parts together: where each learner is half as good as PPO becomes."""
    last, zero = found["ppo"]["returns"][-1], found["random"]
    half = zero + (last - zero) / 2
    reached = {learner: first_at(found[learner], half) for learner in ("ppo", "sac")}
    slow, fast = reached["ppo"], reached["sac"]
    return {
        **{name: value for name, value in asdict(arguments).items() if name not in ("part", "run")},
        "random_return": zero, "half_return": half,
        **{learner: found[learner] for learner in reached},
        "steps_to_half": {name: at and at["steps"] for name, at in reached.items()},
        "seconds_to_half": {name: at and at["seconds"] for name, at in reached.items()},
        "sac_over_ppo_steps": fast["steps"] / slow["steps"] if fast and slow else None,
        "killed": found["killed"],
    }  # fmt: skip


def first_at(curve: dict[str, list[float]], goal: float) -> dict[str, float] | None:
    """Return steps and seconds of the first round whose policy returns so much."""
    for steps, seconds, reached in zip(
        *map(curve.get, ("steps", "seconds", "returns")), strict=True
    ):
        if reached >= goal:
            return {"steps": steps, "seconds": seconds}
    return None


def experiment_of(arguments: Arguments, learner: str) -> Experiment:
    """Return the slow run of a learner."""
    base = PRESETS[arguments.preset].experiment
    slow = {"task": base.env, "milliseconds": arguments.milliseconds}
    steps = getattr(arguments, f"{learner}_steps")
    experiment = with_learner(
        replace(
            base, env="benchmark_sac:slow/Task-v0", env_kwargs=slow, reward="true",
            seed=arguments.seed, steps=steps,
            rounds=max(1, steps // arguments.round_steps), threads=1,
            query=QueryConfig(explore_steps=arguments.explore_steps),
        ),
        learner,
    )  # fmt: skip
    if learner == "ppo":
        return experiment
    config = cast(ControlConfig, experiment.domain)
    sac = SACConfig(updates_per_step=arguments.updates_per_step)
    return replace(experiment, domain=replace(config, sac=sac))


def quick(arguments: Arguments) -> Experiment:
    """Return an experiment in the same task without the waiting, to evaluate in."""
    return replace(PRESETS[arguments.preset].experiment, threads=1)


def curve(arguments: Arguments, learner: str) -> dict[str, list[float]]:
    """Train a learner; return steps, seconds and the return of the policy after each round."""
    from prefrl.control.build import fresh_environments
    from prefrl.control.policy import evaluate
    from prefrl.runs.load import load_policy
    from prefrl.runs.session import rounds, start

    torch.set_num_threads(1)
    experiment = experiment_of(arguments, learner)
    found: dict[str, list[float]] = {"steps": [], "seconds": [], "returns": []}
    with tempfile.TemporaryDirectory() as folder:
        began, evaluating = time.perf_counter(), 0.0
        session = start(experiment, Path(folder) / "run")
        for done in rounds(session):
            if done.state != "done":
                continue
            paused = time.perf_counter()
            policy = load_policy(session.folder.path)
            environments = fresh_environments(quick(arguments), arguments.episodes, arguments.seed)
            reached = evaluate(environments, policy).true_return["mean"]
            environments.close()
            evaluating += time.perf_counter() - paused
            found["steps"].append(session.state.steps + arguments.explore_steps)
            found["seconds"].append(round(time.perf_counter() - began - evaluating, 1))
            found["returns"].append(round(reached, 1))
            print(learner, *(values[-1] for values in found.values()), file=sys.stderr, flush=True)
        session.close()
    return found


def chance(arguments: Arguments) -> float:
    """Return what random actions return."""
    from prefrl.control.evaluation import baseline

    return baseline(quick(arguments), arguments.episodes).true_return["mean"]


def killed(arguments: Arguments) -> dict[str, Any]:
    """Kill a run of SAC at a random moment and resume it, beside one that is left alone."""
    with tempfile.TemporaryDirectory() as folder:
        alone, other = Path(folder) / "alone", Path(folder) / "killed"
        to_its_end(begin(arguments, alone))
        process, after = begin(arguments, other), random.randrange(1, SHORT_ROUNDS)
        while process.poll() is None and rounds_of(other) < after:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        was_killed = process.wait() == -signal.SIGKILL
        to_its_end(begin(arguments, other))
        same = (alone / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    return {"killed": was_killed, "after_rounds": after, "identical": same}


def begin(arguments: Arguments, run: Path) -> subprocess.Popen:
    """Start a process that makes a short run, or goes on with it."""
    words = command(replace(arguments, run=str(run)), "short")
    return subprocess.Popen(words, stdout=subprocess.DEVNULL)


def to_its_end(process: subprocess.Popen) -> None:
    """Wait for a process that must succeed."""
    if code := process.wait(600):
        raise SystemExit(code)


def rounds_of(run: Path) -> int:
    """Return how many rounds a run has finished."""
    lines = run / "metrics.jsonl"
    return len(lines.read_bytes().splitlines()) if lines.exists() else 0


def short(arguments: Arguments) -> None:
    """Make a short run of SAC, or what is left of one that was killed."""
    from prefrl.runs.session import resume, rounds, start

    assert arguments.run
    torch.set_num_threads(1)
    begun = (Path(arguments.run) / "config.json").exists()
    steps = arguments.killed_steps
    experiment = replace(
        experiment_of(arguments, "sac"), steps=steps, rounds=SHORT_ROUNDS,
        query=QueryConfig(explore_steps=steps // 4),
        domain=ControlConfig(learner="sac", sac=SACConfig(seed_steps=steps // 8)),
    )  # fmt: skip
    session = resume(arguments.run) if begun else start(experiment, arguments.run)
    if session.state.round <= SHORT_ROUNDS:  # it may have been killed after its end
        for _ in rounds(session):
            pass
    session.close()


PARTS = {
    "random": chance,
    "ppo": lambda arguments: curve(arguments, "ppo"),
    "sac": lambda arguments: curve(arguments, "sac"),
    "killed": killed,
    "short": short,
}

if __name__ == "__main__":
    assert prefrl.envs  # importing it registers the environments
    main()
