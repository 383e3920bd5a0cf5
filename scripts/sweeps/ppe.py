"""The tasks and numbers of pairs of a published table, and orders of six that show as many clips.

The table is PPE's (preference-based reinforcement learning with an off-policy learner): 908, 520,
645 and 661 after 0.5 to 1 million steps. PPO takes 4 million here, as B-Pref's PrefPPO did.
"""

from dataclasses import replace

from prefrl.config.experiment import Experiment
from prefrl.config.learning import QueryConfig
from prefrl.config.presets import preset

PAIRS = {"walker-walk": 100, "walker-run": 100, "cheetah-run": 100, "quadruped-walk": 1000}
SEEDS = range(5)


def experiments() -> list[Experiment]:
    """Return pairs, orders and the true reward on each task and seed."""
    found = []
    for name, pairs in PAIRS.items():
        task = replace(preset(name).experiment, steps=4_000_000)
        orders = replace(task, labels=round(pairs / 3), query=QueryConfig(kind="ranking"))
        for seed in SEEDS:
            found += [
                replace(task, labels=pairs, seed=seed),
                replace(orders, seed=seed),
                replace(task, reward="true", seed=seed),
            ]
    return found
