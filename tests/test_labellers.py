"""Several labellers who do not agree: how reliable each is, and what that does to a fit."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from complaints import complaint
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, many, probabilities
from toy_environments import prefer_larger, tiny

from prefrl.answers import to_comparisons
from prefrl.config.control import RewardConfig
from prefrl.config.learning import FitConfig
from prefrl.control.reward import RewardEnsemble
from prefrl.learning.agreement import agreement, alpha, said_of_pairs
from prefrl.learning.labellers import (
    count_votes,
    intervals,
    reliability,
)
from prefrl.learning.preference import preference_loss
from prefrl.learning.reward import FitState, fit, predict_returns
from prefrl.reports.inspect import in_words, inspect_run
from prefrl.runs.replay import replay
from prefrl.runs.session import resume, rounds, start
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.types import Answer, Comparison, Query, QueryId, Segment

RELIABLE = FitConfig(first_epochs=30, labellers="reliability")
FUNCTION = "toy_environments:prefer_larger"
UNTAUGHT = 0.95  # what --fit.uniform-error assumes of whoever has not answered yet


def clip(name, value=0.0):
    return Segment(name, np.full((2, 1), value), np.zeros((2, 1)))


PAIR = clip("a", 1.0), clip("b")


def crowd(rights, queries, seed=0, lead=2.0, same=True):
    """Return what labellers of known reliability say of queries, and what a good reward does.

    Args:
        rights: of each labeller, by name, how often they are right.
        queries: how many there are.
        seed: of queries and errors.
        lead: logits by which the reward has the left side lead, in the mean.
        same: whether all answer each query, or one after another one each.
    """
    generator = np.random.default_rng(seed)
    leads = lead * generator.normal(size=queries)
    is_left = generator.random(queries) < 1 / (1 + np.exp(-leads))
    comparisons = []
    for number in range(queries):
        for name in rights if same else [[*rights][number % len(rights)]]:
            said = is_left[number] == (generator.random() < rights[name])
            query = QueryId(0, number)
            comparisons.append(Comparison(*PAIR, float(said), query=query, teacher=name))
    return comparisons, leads


# --- reliability ------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["the same queries", "queries of their own"])
def test_reliabilities_are_found_of_a_good_a_careless_and_a_reversed_labeller(same):
    rights = {"anna": 0.95, "ben": 0.75, "cleo": 0.5}
    comparisons, leads = crowd(rights, 800 if same else 2400, same=same)
    votes = count_votes(comparisons)
    found = reliability(votes, leads, UNTAUGHT)
    assert votes.labellers == ("anna", "ben", "cleo")
    assert found.labellers == pytest.approx([*rights.values()], abs=0.05)
    assert found.trust > 0.8, "the reward says what is so"


def test_who_says_the_contrary_of_the_others_is_found_without_a_reward():
    rights = {"anna": 0.9, "ben": 0.8, "cleo": 0.85, "dan": 0.03}
    comparisons, leads = crowd(rights, 400)
    found = reliability(count_votes(comparisons), 0 * leads, UNTAUGHT)
    assert found.labellers == pytest.approx([*rights.values()], abs=0.05)


def test_a_reward_that_knows_nothing_is_not_trusted_and_leads_nobody_astray():
    comparisons, leads = crowd({"anna": 0.9, "ben": 0.8, "cleo": 0.7}, 400)
    noise = np.random.default_rng(1).permutation(leads) * 5
    votes = count_votes(comparisons)
    by_noise, alone = (reliability(votes, lead, UNTAUGHT) for lead in (noise, 0 * noise))
    assert by_noise.trust < 0.1
    assert by_noise.labellers == pytest.approx(alone.labellers, abs=0.03)


def test_what_nothing_is_known_of_stays_as_assumed():
    comparisons, leads = crowd({"anna": 0.6}, 50)
    found = reliability(count_votes(comparisons), 0 * leads, UNTAUGHT)
    assert found.labellers == pytest.approx([UNTAUGHT], abs=1e-9)
    ties = [replace(c, preference=0.5) for c in crowd({"anna": 0.6, "ben": 0.6}, 50)[0]]
    assert reliability(count_votes(ties), leads, 0.8).labellers == pytest.approx([0.8, 0.8])


@few
@given(st.permutations(range(60)), st.integers(0, 9))
def test_neither_the_order_of_answers_nor_which_side_is_left_matters(order, seed):
    comparisons, leads = crowd({"anna": 0.9, "ben": 0.7, "cleo": 0.4}, 20, seed)
    votes = count_votes(comparisons)
    found = reliability(votes, leads, UNTAUGHT)
    other = count_votes([comparisons[row] for row in order])
    moved = np.zeros(20)
    moved[other.item] = leads[votes.item][list(order)]
    assert reliability(other, moved, UNTAUGHT).labellers == pytest.approx(found.labellers)
    turned = reliability(count_votes([c.swapped() for c in comparisons]), -leads, UNTAUGHT)
    assert turned.labellers == pytest.approx(found.labellers)
    assert turned.left == pytest.approx(1 - found.left)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rights = {"anna": 0.95, "ben": 0.75, "cleo": 0.5}
    held = []
    for seed in range(60):
        comparisons, leads = crowd(rights, 100, seed)
        ends = intervals(count_votes(comparisons), leads, UNTAUGHT)
        assert (ends[:, 0] < ends[:, 1]).all()
        held.append((ends[:, 0] <= [*rights.values()]) & (ends[:, 1] >= [*rights.values()]))
    assert 0.88 < np.mean(held) < 0.995
    few_answers, leads = crowd(rights, 10)
    of_few = np.diff(intervals(count_votes(few_answers), leads, UNTAUGHT))
    assert (of_few > np.diff(ends)).all(), "fewer answers say less"


def test_an_order_of_clips_is_as_many_votes_as_it_took_to_sort_it():
    clips = tuple(clip(name, value) for value, name in enumerate("abcd"))
    query = Query(QueryId(0, 0), clips, "ranking")
    said = Answer(query.id, "ranking", {"order": [[3], [2], [1], [0]]}, "anna")
    unsure = Answer(query.id, "preference", {"left": 0.75}, "ben")
    votes = count_votes(to_comparisons(query, said).comparisons)
    assert votes.left.sum() == 0 and votes.right.sum() == pytest.approx(len(clips) - 1)
    half = to_comparisons(Query(QueryId(0, 1), clips[:2]), replace(unsure, query=QueryId(0, 1)))
    assert count_votes(half.comparisons).left.tolist() == [[0.5]]
    same = Comparison(clip("a"), clip("b"), 1.0, teacher="anna")
    assert count_votes([same]).left.tolist() == [[0.0]], "there is no right side"


# --- what a fit makes of it -------------------------------------------------------------------


@many
@given(st.floats(-9, 9), probabilities, st.floats(0.01, 0.99))
def test_an_answer_is_mixed_by_the_reliability_of_whoever_gave_it(lead, preference, right):
    returns = torch.tensor([lead], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    said = torch.tensor([preference], dtype=torch.float64)
    left = 1 / (1 + np.exp(-lead))
    mixed = right * left + (1 - right) * (1 - left)
    expected = -(preference * np.log(mixed) + (1 - preference) * np.log(1 - mixed))
    of_one = torch.tensor([right], dtype=torch.float64)
    assert float(preference_loss(*returns, said, reliability=of_one)) == pytest.approx(expected)
    if right >= 0.5:
        alike = preference_loss(*returns, said, uniform_error=2 * (1 - right))
        assert float(alike) == pytest.approx(expected)


def test_chance_teaches_nothing_and_the_contrary_counts_turned_round():
    lead = torch.tensor([0.7, -0.4], requires_grad=True)
    zero, said = torch.zeros(2), torch.tensor([1.0, 0.0])

    def gradient(right, said):
        loss = preference_loss(lead, zero, said, reliability=torch.tensor([right])).sum()
        return torch.autograd.grad(loss, lead)[0]

    assert torch.equal(gradient(0.5, said), zero)
    assert torch.allclose(gradient(0.1, said), gradient(0.9, 1 - said))
    assert (gradient(0.9, said) * torch.tensor([-1.0, 1.0]) > 0).all()


def returns_of(comparisons, config, members=3):
    model = RewardEnsemble(4, Box(-1, 1, (1,)), RewardConfig(members=members, hidden=(16,)), 0)
    metrics = fit(model, comparisons, config, FitState(model, config, 0))
    return model, metrics


def taught(rights, queries, seed=0):
    """Return answers about clips of a linear return, and other clips with their true returns."""
    generator = np.random.default_rng(seed)
    weights = np.array([1.0, -1.0, 0.5, 0.0])

    def clips(name, count):
        means = generator.normal(size=(count, 1, 4))
        steps = means + 0.3 * generator.normal(size=(count, 6, 4))
        return [Segment(f"{name}{n}", s, np.zeros((6, 1))) for n, s in enumerate(steps)]

    asked, fresh = clips("asked", 2 * queries), clips("fresh", 200)
    comparisons = []
    for number, pair in enumerate(zip(asked[::2], asked[1::2], strict=True)):
        lead = (pair[0].observations - pair[1].observations).sum(0) @ weights
        for name, right in rights.items():
            said = (lead > 0) == (generator.random() < right)
            comparison = Comparison(*pair, float(said), query=QueryId(0, number), teacher=name)
            comparisons.append(comparison)
    return comparisons, fresh, np.array([c.observations.sum(0) @ weights for c in fresh])


def test_a_fit_finds_out_who_says_the_contrary_and_learns_from_them_all_the_same():
    rights = {"anna": 0.95, "ben": 0.9, "cleo": 0.05, "dan": 0.5}
    comparisons, fresh, true = taught(rights, 80)
    correlation = {}
    for labellers in ("equal", "reliability"):
        config = replace(RELIABLE, labellers=labellers)
        model, metrics = returns_of(comparisons, config)
        predicted = predict_returns(model, fresh).mean(0).numpy()
        correlation[labellers] = np.corrcoef(predicted, true)[0, 1]
        assert ("least_reliable" in metrics) == (labellers == "reliability")
    assert metrics["least_reliable"] < 0.15
    assert correlation["reliability"] > 0.9 > correlation["equal"] + 0.05


def test_one_network_that_knows_no_answer_goes_by_the_others_alone():
    comparisons, _, _ = taught({"anna": 0.95, "ben": 0.9, "cleo": 0.05}, 40)
    config = replace(RELIABLE, held_out=0.0, first_epochs=2)
    _, metrics = returns_of(comparisons, config, members=1)
    votes = count_votes(comparisons)
    alone = reliability(votes, np.zeros(len(votes.left)), UNTAUGHT)
    assert metrics["least_reliable"] == pytest.approx(alone.labellers.min())


def test_a_run_of_two_labellers_is_resumed_and_replayed_to_the_byte(tmp_path):
    session = start(tiny(fit=RELIABLE), tmp_path / "run", teacher=prefer_larger)
    for done in rounds(session):
        if done.state == "done" and done.index == 1:
            for given in session.feedback.answers():
                said = {"left": 1 - given.value["left"]}
                session.feedback.answer(replace(given, value=said, teacher="ben", uuid=""))
    folder = RunFolder(tmp_path / "run")
    whole = (folder.path / "metrics.jsonl").read_bytes()
    lines = folder.metrics()
    assert lines[1]["least_reliable"] > 0.8 > lines[2]["least_reliable"], "ben came later"
    for _ in replay(folder.path, tmp_path / "again"):
        pass
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == whole
    (folder.path / "checkpoints" / "round-0004.pt").unlink()
    for _ in rounds(resume(folder.path, teacher=prefer_larger)):
        pass
    assert (folder.path / "metrics.jsonl").read_bytes() == whole


@pytest.mark.parametrize("other", ["--fit.loss square", "--fit.rankings plackett-luce"])
def test_reliabilities_and_another_loss_are_refused_together(other, capsys, tmp_path):
    words = f"train hopper --fit.labellers reliability {other} --run {tmp_path / 'run'}"
    sentence = complaint(words.split(), capsys)
    assert other in sentence and "leave one of them out" in sentence


def test_an_oracle_is_not_asked_as_several_people(capsys, tmp_path):
    words = ["train", "hopper", "--query.people", 2, "--run", tmp_path / "run"]
    assert "use --teacher human" in complaint(words, capsys)


# --- agreement --------------------------------------------------------------------------------

KRIPPENDORFF = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def test_alpha_is_what_krippendorff_works_out_for_his_example():
    said = [line.split() for line in KRIPPENDORFF.split("\n") if line]
    units = [[float(v) for v in column if v != "."] for column in zip(*said, strict=True)]
    assert alpha(units) == pytest.approx(0.849, abs=5e-4)


def test_alpha_is_one_where_all_agree_and_about_nothing_by_chance():
    generator = np.random.default_rng(0)
    chance = generator.integers(2, size=(4000, 3)).astype(float)
    assert alpha([[v, v] for v in (0.0, 1.0, 1.0)]) == pytest.approx(1)
    assert alpha(chance.tolist()) == pytest.approx(0, abs=0.03)
    assert alpha([[0.0, 1.0], [1.0, 0.0]]) < 0
    assert alpha([[1.0, 1.0], [1.0, 1.0]]) is None and alpha([[1.0], [0.0]]) is None
    assert agreement({}) is None


def test_an_interval_of_alpha_draws_whole_queries():
    generator = np.random.default_rng(0)
    said = [[a, a if keep else 1 - a] for a, keep in generator.random((60, 2)).round() > 0.5]
    said = [[float(v) for v in pair] for pair in said]
    alone = agreement({QueryId(0, n): [unit] for n, unit in enumerate(said)})
    thrice = agreement({QueryId(0, n): [unit] * 3 for n, unit in enumerate(said)})
    low, high = alone["interval"]
    assert low < alone["mean"] < high and alone["mean"] == alpha(said)
    assert thrice["interval"] == pytest.approx([low, high], abs=0.02)


def test_what_is_said_of_a_pair_is_kept_apart_by_query():
    one = [
        Comparison(*PAIR, p, query=QueryId(0, 0), teacher=t) for p, t in ((1.0, "a"), (0.5, "b"))
    ]
    other = Comparison(*PAIR, 0.0, query=QueryId(0, 1), teacher="a")
    assert said_of_pairs([*one, other]) == {QueryId(0, 0): [[1.0, 0.5]]}


def test_inspect_tells_how_far_labellers_agree_where_there_are_several(tmp_path):
    session = start(tiny(), tmp_path / "run", teacher=prefer_larger)
    for _ in rounds(session):
        pass
    folder = RunFolder(tmp_path / "run")
    assert "labellers" not in inspect_run(folder)
    with closing(FeedbackStore(folder.feedback)) as store:
        for number, given in enumerate(store.answers()):
            for name, turned in (("anna", number == 0), ("ben", True)):
                said = {"left": 1 - given.value["left"] if turned else given.value["left"]}
                store.answer(replace(given, value=said, teacher=name, uuid=""))
        again = {"left": given.value["left"]}
        store.answer(replace(given, value=again, teacher="anna", repeat=True, uuid=""))
        store.answer(replace(given, value=again, teacher="ben", repeat=True, uuid=""))
    found = inspect_run(folder)["labellers"]
    assert found["queries"] == 16 and found["alpha"]["mean"] < 0.1
    assert {name: entry["queries"] for name, entry in found["each"].items()} == {
        "anna": 16, "ben": 16, FUNCTION: 16,
    }  # fmt: skip
    value = {name: entry["reliability"]["mean"] for name, entry in found["each"].items()}
    assert value["ben"] < 0.2 and min(value["anna"], value[FUNCTION]) > 0.8
    assert [found["each"][name]["repeats"]["mean"] for name in ("anna", "ben")] == [1.0, 0.0]
    words = in_words(inspect_run(folder))
    [alpha_line] = [line for line in words if "Krippendorff" in line]
    assert "agreement on 16 queries that several answered" in alpha_line
    assert any("ben" in line and "16" in line and "0%" in line for line in words)
