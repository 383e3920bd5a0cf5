"""How good the learned reward is, beside teachers and the true reward."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections import defaultdict
from contextlib import closing
from typing import Any

import numpy as np
import torch

from prefrl.answers import to_comparisons
from prefrl.errors import UserError
from prefrl.intervals import share
from prefrl.learning.bags import bag_weights
from prefrl.learning.preference import decisive, preference_probability
from prefrl.learning.reward import predict_returns
from prefrl.learning.statistics import in_words as estimated
from prefrl.reports.labellers import compare_labellers, labellers_in_words
from prefrl.runs.load import load_reward
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.gold import scores
from prefrl.storage.history import agreement as consistency
from prefrl.types import Answer, Comparison, Query, QueryId, Segment, Trajectory, alike, until_end

LONGEST_REMARK = 80  # characters of a comment in a line
TRACES = 12  # queries whose reward is given step by step


def inspect_run(folder: RunFolder, worst: int = 20) -> dict[str, Any]:
    """Return how good a run's reward is, as JSON values.

    Args:
        folder: the run.
        worst: how many of the answers that it fits worst to list.

    Returns:
        `round`: of the reward model; `answers`: how many it is compared with; `teachers`: for each,
        `answers`, how many of them are `judged`, the `decisive` comparisons in those and
        `agreement`, the share of them that the model prefers the same side of; `true`:
        `correlation` of predicted and true returns of clips (Pearson) and the `clips` themselves,
        `[true, predicted]`; `worst`: the answers of largest loss with `said` and `predicted`,
        P(left is better), and how many `members` predict; `disagreeing`: all answers, newest
        first, of which the model prefers another side; `traces`: predicted rewards of the newest
        answered queries' clips, `[step]` each, and the answers to them. Of several aspects also
        `aspects`: for each its `answers`, `judged`, `decisive`, `agreement`, `correlation` and
        `clips`, by its own reward and its own true one; then `true` is that of the first. Where
        several answered, also `labellers`, as `compare_labellers` has it. Where there are gold
        questions, also `gold`: of each who answered any, `of` how many the share right has its
        `mean` and `interval`; and where queries were set aside, `broken`: which, by whom, and why.

        Members of the ensemble that were fitted to an answer to a query say nothing of it. If all
        were, the answer is not judged, and their mean is what is listed as `predicted`.
    """
    model = load_reward(folder.path)
    with closing(FeedbackStore(folder.feedback, read_only=True)) as feedback:
        return _report(folder, feedback, model, worst)


def _report(folder: RunFolder, feedback: FeedbackStore, model: Any, worst: int) -> dict[str, Any]:
    answers = feedback.answers()
    queries = {answer.query: feedback.query(answer.query) for answer in answers}
    segments = {s.id: s for query in queries.values() for s in query.segments}
    lessons = [(a, to_comparisons(queries[a.query], a).comparisons) for a in answers]
    for _, comparisons in lessons:  # a rewrite is a segment of its own
        segments |= {s.id: s for c in comparisons for s in (c.left, c.right)}
    if not lessons:
        raise UserError(f"{folder.path} holds no answers yet; there is nothing to inspect")
    row_of = {name: row for row, name in enumerate(segments)}
    named = any(query.aspect for query in queries.values())
    alone = dict.fromkeys((folder.card().aspects if named else ()) or ("",), model)
    models: dict[str, Any] = getattr(model, "parts", alone)
    returns, unfitted = {}, {}
    for aspect, part in models.items():
        returns[aspect] = predict_returns(part, list(segments.values()))
        unfitted[aspect] = _unfitted(folder, feedback, part.members, list(queries))
    judged = []
    for answer, comparisons in lessons:
        aspect = queries[answer.query].aspect
        if comparisons and aspect in models:
            own = returns[aspect], row_of, unfitted[aspect][answer.query]
            entry = _judged(answer, comparisons, *own)
            judged.append(entry | ({"aspect": aspect} if aspect else {}))
    true = {a: _against_truth(feedback, list(segments), own, a) for a, own in returns.items()}
    several = {
        aspect: _teacher([entry for entry in judged if entry["aspect"] == aspect]) | true[aspect]
        for aspect in (models if len(models) > 1 else ())
    }
    return {
        "round": folder.metrics()[-1]["round"],
        "answers": len(judged),
        "teachers": _teachers(judged),
        "true": next(iter(true.values())),
        **({"aspects": several} if several else {}),
        "worst": sorted(judged, key=lambda entry: -entry["loss"])[:worst],
        **_labellers(folder, feedback, lessons, queries, returns, unfitted, row_of),
        **_remarked(feedback),
        "disagreeing": [e for e in reversed(judged) if e["agreed"] < e["decisive"]],
        "traces": _traces(model, [queries[name] for name in sorted(queries)[-TRACES:]], answers),
    }


def _labellers(
    folder: RunFolder, feedback: FeedbackStore, lessons: list[tuple[Answer, list[Comparison]]],
    queries: dict[QueryId, Query], returns: dict[str, torch.Tensor],
    unfitted: dict[str, dict[QueryId, torch.Tensor]], row_of: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Return how far those who answered agree, under `labellers`; nothing of one alone."""
    comparisons = [c for _, own in lessons for c in own if c.aspect in returns]
    names = sorted({c.teacher for c in comparisons})
    if len(names) < 2:
        return {}
    leads = []
    for c in comparisons:
        of = returns[c.aspect][unfitted[c.aspect][c.query]]
        lead = of[:, row_of[c.left.id]] - of[:, row_of[c.right.id]]
        leads.append(float(lead.mean()) if len(lead) else 0.0)
    error = folder.experiment().fit.uniform_error
    repeats = {name: consistency(feedback, name) for name in names}
    found = compare_labellers(comparisons, leads, error, repeats)
    return {"labellers": found} if found else {}


def _remarked(feedback: FeedbackStore) -> dict[str, Any]:
    """Return what gold questions say of people, and what they set aside."""
    known = {
        name: share(sum(right), len(right)) | {"of": len(right)}
        for name, right in sorted(scores(feedback).items())
    }
    broken = [
        {"round": answer.query.round, "index": answer.query.index, "teacher": answer.teacher,
         "segment": answer.value.get("segment"), "comment": answer.value.get("comment", "")}
        for answer in feedback.answers(repeats=True) if answer.kind == "broken"
    ]  # fmt: skip
    return ({"gold": known} if known else {}) | ({"broken": broken} if broken else {})


def _unfitted(
    folder: RunFolder, feedback: FeedbackStore, members: int, queries: list[QueryId]
) -> dict[QueryId, torch.Tensor]:
    """Return which members, `[member]`, no fit has shown any answer to each query."""
    ledger = feedback.ledger(folder.metrics()[-1]["round"])
    fitted = feedback.answered_queries(ledger.answers_through if ledger else 0)
    experiment = folder.experiment()
    bags = bag_weights(experiment.seed, queries, members, experiment.fit.held_out)
    return {
        query: (bags[:, column] == 0) | (query not in fitted)
        for column, query in enumerate(queries)
    }


def _judged(
    answer: Answer, comparisons: list[Comparison], returns: torch.Tensor, row_of: dict[str, int],
    unfitted: torch.Tensor,
) -> dict[str, Any]:  # fmt: skip
    """Compare one answer with the mean prediction of those members that may speak."""
    members = int(unfitted.sum())
    returns = returns[unfitted] if members else returns
    left = returns[:, [row_of[c.left.id] for c in comparisons]]
    right = returns[:, [row_of[c.right.id] for c in comparisons]]
    predicted = preference_probability(left, right).mean(0).clamp(1e-6, 1 - 1e-6)
    answered = torch.tensor([c.preference for c in comparisons])
    loss = -(answered * predicted.log() + (1 - answered) * (1 - predicted).log())
    apart = torch.tensor([not alike(c.left, c.right) for c in comparisons])
    sure = decisive(answered) & apart
    agreed = ((predicted > 0.5) == (answered > 0.5)) & sure
    return {
        "round": answer.query.round,
        "index": answer.query.index,
        "teacher": answer.teacher,
        "kind": answer.kind,
        "value": answer.value,
        "answered_at": answer.answered_at,
        "seconds": round(max(0.0, answer.answered_at - answer.shown_at), 2),
        "said": [round(float(p), 4) for p in answered],
        "predicted": [round(float(p), 4) for p in predicted],
        "loss": float(loss.mean()),
        "members": members,
        "agreed": int(agreed.sum()),
        "decisive": int(sure.sum()),
    }


def _teachers(judged: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    by_teacher = defaultdict(list)
    for entry in judged:
        by_teacher[entry["teacher"]].append(entry)
    return {name: _teacher(by_teacher[name]) for name in sorted(by_teacher)}


def _teacher(entries: list[dict[str, Any]]) -> dict[str, Any]:
    unfitted = [entry for entry in entries if entry["members"]]
    return {
        "answers": len(entries),
        "judged": len(unfitted),
        "decisive": sum(entry["decisive"] for entry in unfitted),
        "agreement": _share(unfitted),
    }


def _share(entries: list[dict[str, Any]]) -> float | None:
    decisive = sum(entry["decisive"] for entry in entries)
    return sum(entry["agreed"] for entry in entries) / decisive if decisive else None


def _against_truth(
    feedback: FeedbackStore, names: list[str], returns: torch.Tensor, aspect: str = ""
) -> dict[str, Any]:
    """Compare predicted with true returns of the clips whose true rewards are known."""
    pairs = []
    for name, predicted in zip(names, returns.mean(0), strict=True):
        with contextlib.suppress(UserError):  # imported and rewritten clips have no true reward
            pairs.append((float(feedback.true_rewards(name, aspect).sum()), float(predicted)))
    correlation = None
    if len(pairs) > 2 and all(np.std(column) > 0 for column in zip(*pairs, strict=True)):
        correlation = float(np.corrcoef(np.array(pairs).T)[0, 1])
    clips = [[round(true, 4), round(predicted, 4)] for true, predicted in pairs]
    return {"correlation": correlation, "clips": clips}


def _traces(model: Any, queries: list[Query], answers: list[Answer]) -> list[dict[str, Any]]:
    """Return the calibrated reward of each step of these queries' clips, and their answers."""
    return [
        {
            "round": query.id.round,
            "index": query.id.index,
            "rewards": [
                [round(float(r), 4) if math.isfinite(r) else None for r in rewards]
                for rewards in model.rewards([_steps_of(until_end(s)) for s in query.segments])
            ],
            "answers": [
                {"teacher": answer.teacher, "kind": answer.kind, "value": answer.value}
                for answer in answers
                if answer.query == query.id
            ],
        }
        for query in reversed(queries)
    ]


def _steps_of(segment: Segment) -> Trajectory:
    unknown = np.full(len(segment), np.nan)
    return Trajectory(segment.observations, segment.actions, unknown)


def in_words(report: dict[str, Any]) -> list[str]:
    """Return a report in lines for a terminal."""
    lines = [f"reward model of round {report['round']}, beside {report['answers']} answers"]
    for name, entry in report["teachers"].items():
        share = entry["agreement"]
        agrees = "nothing decisive" if share is None else f"agrees with {share:.0%}"
        lines.append(
            f"  {name}: {agrees} of {entry['decisive']} decisive comparisons, in {entry['judged']} "
            f"of {entry['answers']} answers: each judged by members that were not fitted to it"
        )
    if "labellers" in report:
        lines += labellers_in_words(report["labellers"])
    for name, entry in report.get("gold", {}).items():
        right = estimated(entry, ".0%")
        lines.append(f"  {name}: right on {right} of {entry['of']} gold questions")
    for entry in report.get("broken", ()):
        lines.append(_set_aside_in_words(entry))
    for aspect, entry in report.get("aspects", {}).items():
        share, correlation = entry["agreement"], entry["correlation"]
        agrees = "nothing decisive" if share is None else f"agrees with {share:.0%}"
        true = "" if correlation is None else f"; correlation with the true one {correlation:.2f}"
        lines.append(
            f"  {aspect}: its reward {agrees} of {entry['decisive']} decisive comparisons, in "
            f"{entry['judged']} of {entry['answers']} answers{true}"
        )
    if report["true"]["correlation"] is not None and "aspects" not in report:
        lines.append(
            f"predicted against true return of {len(report['true']['clips'])} clips: "
            f"correlation {report['true']['correlation']:.2f}"
        )
    lines.append("worst fitted, P(left is better):")
    for entry in report["worst"]:
        answered, predicted = (" ".join(f"{p:.2f}" for p in entry[key]) for key in _COLUMNS)
        lines.append(
            f"  query {entry['round']}-{entry['index']}, {entry['teacher']} said {answered}, "
            f"predicted {predicted}{'' if entry['members'] else ' (fitted to it)'}"
        )
    return lines


def _set_aside_in_words(entry: dict[str, Any]) -> str:
    which = "" if entry["segment"] is None else f", clip {entry['segment'] + 1}"
    said = f": {textwrap.shorten(entry['comment'], LONGEST_REMARK)}" if entry["comment"] else ""
    query = f"{entry['round']}-{entry['index']}"
    return f"  set aside as broken by {entry['teacher']}: query {query}{which}{said}"


_COLUMNS = ("said", "predicted")
