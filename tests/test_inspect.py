"""Inspect: a network says nothing of an answer that it was fitted to."""

from contextlib import closing

import numpy as np
import pytest
import torch
from fakes import FixedReward, make_segment

from prefrl.config.experiment import Experiment
from prefrl.learning.bags import bag_weights
from prefrl.reports import inspect
from prefrl.reports.inspect import in_words, inspect_run
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer, Query, QueryId

SEED = 3
FACTORS = (2.0, -1.0)  # one network is always right, the other always wrong, more weakly


class Rewarding(FixedReward):
    def rewards(self, trajectories):
        return [np.zeros(len(trajectory)) for trajectory in trajectories]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run of which the fit of round 1 saw the answers to round 0."""
    folder = RunFolder.create(tmp_path / "run", Experiment(env="Env-v0", seed=SEED), {})
    monkeypatch.setattr(inspect, "load_reward", lambda path: Rewarding(FACTORS))
    folder.append_round({"round": 0}, {})
    folder.append_round({"round": 1}, {})
    return folder


def ask(store, round_index, count, value=1.0):
    queries = []
    for index in range(count):
        names = (f"{round_index} {index} {side}" for side in "lr")
        pair = tuple(map(make_segment, names, (3, 3), ("", ""), ("", ""), (value, 0.0)))
        queries.append(Query(QueryId(round_index, index), pair))
    store.ask(round_index, queries, {}, store.last_answer())
    return queries


def prefer_left(store, queries, teacher="anna"):
    for query in queries:
        store.answer(Answer(query.id, "preference", {"left": 1.0}, teacher))


def test_only_those_networks_judge_an_answer_that_were_not_fitted_to_it(folder):
    with closing(FeedbackStore(folder.feedback)) as store:
        fitted = ask(store, 0, 40)
        prefer_left(store, fitted)
        later = ask(store, 1, 10)
        prefer_left(store, later, "ben")
    report = inspect_run(folder, worst=50)
    out = (bag_weights(SEED, [query.id for query in fitted], 2) == 0).numpy()
    judged = out.any(axis=0)
    assert 0 < judged.sum() < 40
    # The mean of both networks, sigmoid(2) and sigmoid(-1), is above a half.
    assert report["teachers"] == {
        "anna": {
            "answers": 40,
            "judged": judged.sum(),
            "decisive": judged.sum(),
            "agreement": out[0].sum() / judged.sum(),
        },
        "ben": {"answers": 10, "judged": 10, "decisive": 10, "agreement": 1.0},
    }
    members = {(e["round"], e["index"]): (e["members"], e["predicted"]) for e in report["worst"]}
    alone = torch.sigmoid(torch.tensor(FACTORS)).numpy()
    for query, unfitted in zip(fitted, out.T, strict=True):
        count, [predicted] = members[query.id]
        assert count == unfitted.sum()
        expected = alone[unfitted].mean() if count else alone.mean()
        assert predicted == pytest.approx(expected, abs=1e-4)
    words = "\n".join(in_words(report))
    share = f"agrees with {out[0].sum() / judged.sum():.0%} of {judged.sum()} decisive"
    assert f"anna: {share} comparisons, in {judged.sum()} of 40 answers" in words
    assert words.count("(fitted to it)") == (~judged).sum()


def test_an_answer_that_was_changed_after_the_fit_is_no_news_to_its_networks(folder):
    with closing(FeedbackStore(folder.feedback)) as store:
        queries = ask(store, 0, 40)
        prefer_left(store, queries)
        ask(store, 1, 0)
        before = inspect_run(folder)["teachers"]["anna"]
        prefer_left(store, queries)  # once more, and later than the fit
        store.answer(Answer(queries[0].id, "retraction", {}, "anna"))
        prefer_left(store, queries[:1])
    assert inspect_run(folder)["teachers"]["anna"] == before


def test_clips_that_show_the_same_decide_nothing(folder):
    with closing(FeedbackStore(folder.feedback)) as store:
        ask(store, 0, 0)
        prefer_left(store, ask(store, 1, 3, value=0.0))
    assert inspect_run(folder)["teachers"]["anna"] == {
        "answers": 3, "judged": 3, "decisive": 0, "agreement": None,
    }  # fmt: skip
