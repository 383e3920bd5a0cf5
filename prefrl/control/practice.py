"""Questions for practice: clips of random actions, whose right answer the true reward knows.

No policy of the run has made them and no fit sees them, so what is told of them tells nothing of
what the run asks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from gymnasium.envs.registration import EnvSpec

from prefrl.config.experiment import Experiment
from prefrl.control.environments.adapters import make_environments
from prefrl.control.environments.interface import Description, Environments
from prefrl.control.environments.recorder import Recorder
from prefrl.control.policy import RandomPolicy
from prefrl.errors import Note
from prefrl.guide import Guide, Measure, Right
from prefrl.learning.selection import stretch
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Picture, Query, QueryId, Segment, Trajectory

QUESTIONS = 3
BATCHED, SEPARATE = 32, 12  # clips to choose from, of environments that run together or one by one
HOLD = (1, 4, 16, 48)  # steps for which an action is held: some shiver, some fall, some leap
SEED_APART = 2_000_003  # from the seeds of training and evaluation
TELLING = 0.5  # standard deviations by which two clips differ in what is given as a reason
GOES_WITH = 0.4  # least correlation of a reason with what is asked about


@dataclass(frozen=True)
class Candidate:
    """A clip to choose from."""

    segment: Segment
    returns: Mapping[str, float]
    """True returns, by aspect; under "" of the one plain question."""
    info: Mapping[str, float]
    """What the environment reports at its last step."""


@dataclass(frozen=True)
class Practice:
    """Questions and their right answers."""

    queries: Sequence[Query]
    rights: Sequence[Right]
    pictures: Mapping[str, Picture]

    def save(self, folder: RunFolder, guide: Guide) -> None:
        """Write the clips and the guide, with the answers in it."""
        if self.queries:
            with closing(FeedbackStore(folder.practice)) as store:
                store.ask(0, list(self.queries), {}, 0, dict(self.pictures))
        folder.save_guide(replace(guide, practice=tuple(self.rights)))


def record_practice(
    experiment: Experiment, spec: EnvSpec, description: Description, aspects: Mapping[str, str]
) -> Practice:
    """Play with random actions, and make questions of clips that differ clearly.

    Where all are worth the same, there are none.

    Args:
        experiment: what is asked, and how.
        spec: the environment.
        description: of it.
        aspects: what is asked about in turn; {} for one plain question.
    """
    count = BATCHED if spec.vector_entry_point is not None else 1
    steps = description.clip_steps
    environments = make_environments(
        spec, count, SEED_APART + experiment.seed, steps, experiment.threads,
        steps * description.dt,
    )  # fmt: skip
    with closing(environments):
        candidates = _played(environments, steps, experiment.seed, 1 if count > 1 else SEPARATE)
        queries, rights = [], []
        sides = np.random.default_rng(experiment.seed).permutation(experiment.query.size)
        turns = [*aspects.items()] or [("", experiment.question or description.question)]
        for number in range(QUESTIONS):
            aspect, question = turns[number % len(turns)]
            chosen = _chosen(candidates, experiment.query.size, number, aspect)
            if chosen is None:
                continue
            chosen = [chosen[i] for i in np.roll(sides, number)]
            index = QueryId(0, len(queries))
            clips = tuple(candidate.segment for candidate in chosen)
            queries.append(Query(index, clips, experiment.query.kind, question, aspect))
            rights.append(_right(chosen, candidates, description, aspect))
        shown = {clip.id: clip for query in queries for clip in query.segments}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)  # that there are no pictures is said of the run
            return Practice(queries, rights, environments.pictures(list(shown.values())))


def _played(environments: Environments, steps: int, seed: int, episodes: int) -> list[Candidate]:
    """Play episodes that are as long as a clip, each with actions held for so many steps."""
    policy, rows = RandomPolicy(environments.description, seed), np.arange(environments.count)
    recorder, observations = Recorder(environments.count), environments.reset()
    reports: list[dict[str, float]] = []
    held = policy.predict(observations)
    for step in range(steps * episodes):
        hold = np.array(HOLD)[(rows + step // steps) % len(HOLD)]
        fresh = policy.predict(observations)
        new = (step % steps) % hold == 0
        held[new] = fresh[new]
        extras, made = environments.extras(), environments.step(held)
        recorder.add(observations, held, extras, made)
        observations = made.observations
        reports += [made.reports[row] for row in sorted(made.reports)]
    played = [each for _, _, each in recorder.trajectories("practice")]
    return [_candidate(each, info) for each, info in zip(played, reports, strict=True)]


def _candidate(played: Trajectory, info: Mapping[str, float]) -> Candidate:
    segment, reward = stretch(played, 0, len(played))
    paid = {aspect: float(each.sum()) for aspect, each in played.aspect_rewards.items()}
    return Candidate(segment, {"": float(reward.sum())} | paid, info)


def _chosen(
    candidates: Sequence[Candidate], size: int, number: int, aspect: str
) -> list[Candidate] | None:
    """Return clips spread from the worst to the best, others for each question; None if alike."""
    ranked = sorted(candidates, key=lambda candidate: candidate.returns.get(aspect, 0.0))
    last = len(ranked) - 1 - number
    if last - number < size - 1:
        return None
    rows = np.linspace(number, last, size).round().astype(int)
    chosen = [ranked[row] for row in rows]
    returns = [candidate.returns.get(aspect, 0.0) for candidate in chosen]
    return chosen if returns[-1] > returns[0] else None


def _right(
    chosen: Sequence[Candidate], candidates: Sequence[Candidate], description: Description,
    aspect: str,
) -> Right:  # fmt: skip
    """Return the order of some clips, and why the best is better than the worst."""
    returns = [candidate.returns[aspect] for candidate in chosen]
    places = sorted(set(returns), reverse=True)
    order = tuple(tuple(i for i, each in enumerate(returns) if each == value) for value in places)
    best, worst = order[0][0], order[-1][-1]
    names = ("Left", "Right") if len(chosen) == 2 else [f"Clip {i + 1}" for i in range(9)]
    says = (
        f"{names[best]} is better"
        if len(chosen) == 2
        else f"{names[best]} is the best and {names[worst].lower()} the worst"
    )
    why = _reason(chosen[best], chosen[worst], candidates, description, aspect)
    why = why or f"it is worth more, {returns[best]:.3g} against {returns[worst]:.3g}"
    return Right(order, re.sub(r"-(?=\d)", "−", f"{says}: {why}."))


def _reason(
    better: Candidate, worse: Candidate, candidates: Sequence[Candidate], description: Description,
    aspect: str,
) -> str:  # fmt: skip
    """Return what tells two clips apart most clearly, of what the environment names; "" if none.

    It must go with what is asked about, among all clips that there are to choose from.
    """
    found: list[tuple[float, str]] = []
    returns = [each.returns[aspect] for each in candidates]
    for words, measure in description.guide.reasons.items():
        sign = -1.0 if words.startswith("-") else 1.0
        values = [sign * _measured(measure, each, description.dt) for each in candidates]
        if np.std(values) == 0 or np.corrcoef(values, returns)[0, 1] < GOES_WITH:
            continue
        pair = [_measured(measure, each, description.dt) for each in (better, worse)]
        lead = sign * (pair[0] - pair[1]) / float(np.std(values))
        if lead > TELLING:
            told = words.removeprefix("-").format(better=pair[0], worse=pair[1])
            found.append((lead, told))
    return max(found, default=(0.0, ""))[1]


def _measured(measure: Measure, candidate: Candidate, dt: float) -> float:
    if isinstance(measure, str):
        return float(candidate.info.get(measure, 0.0))
    segment = candidate.segment
    return float(measure(segment.observations, segment.extras.get("qpos"), dt))
