"""Two runs side by side: who is better, by an oracle, a function and people."""

import json
import re
from contextlib import closing

import numpy as np
import pytest
import toy_environments
import toy_texts
from complaints import complaint
from starlette.requests import Request
from toy_environments import tiny
from toy_texts import save_small_model, tiny_text

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.learning.statistics import share
from prefrl.reports import compare as comparing
from prefrl.reports.compare import compare_runs
from prefrl.runs.load import load_policy
from prefrl.runs.session import resume
from prefrl.runs.train import train
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.teachers import pairs as pairing
from prefrl.types import Answer, QueryId, Segment, Trajectory
from prefrl.viewer.guard import Visitor
from prefrl.viewer.view import View


def undecided(left, right):
    return None


def prefer_left(left, right):
    return 1.0


@pytest.fixture(scope="module")
def robots(tmp_path_factory):
    """A run that was taught to push, and one that has hardly been trained."""
    folder = tmp_path_factory.mktemp("robots")
    taught = train(tiny(seed=3), folder / "taught", teacher=toy_environments.prefer_larger)
    return taught, train(tiny(seed=5, steps=64, rounds=1, reward="true"), folder / "fresh")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    model = save_small_model(folder / "model")
    return [
        train(tiny_text(model, seed=seed, steps=16, rounds=2), folder / str(seed))
        for seed in (0, 1)
    ]


def answered(folder, says):
    """Let somebody answer every pair; `says` gets the query and returns kind and value."""
    with closing(FeedbackStore(folder.feedback)) as store:
        for query in store.pending():
            kind, value = says(query)
            store.answer(Answer(query.id, kind, value, "somebody", 1.0, 2.0))
    return comparing.report(folder)


def test_the_oracle_says_who_pushes_more(robots, tmp_path):
    made = compare_runs(robots, tmp_path / "made", 30)
    report = comparing.report(made)
    with closing(FeedbackStore(made.feedback)) as store:
        wins, lefts = 0, 0
        for index in range(30):
            left, right = store.query(QueryId(0, index)).segments
            returns = [store.true_rewards(segment.id).sum() for segment in (left, right)]
            assert {left.source[0], right.source[0]} == {"A", "B"}
            assert left.id[1:].split(",")[3:] == right.id[1:].split(",")[3:], "other steps"
            assert len(left) == len(right)
            first = returns[0] if left.source[0] == "A" else returns[1]
            wins += first == max(returns)
            lefts += left.source[0] == "A"
    assert 5 < lefts < 25, "sides are random"
    assert (report["wins"], report["losses"]) == (wins, 30 - wins)
    assert report["win_rate"] == share(wins, 30)
    assert (report["ties"], report["skips"], report["answered"]) == (0, 0, 30)
    assert report["A"] == f"A, {robots[0].path}, round 4"
    assert report["B"] == f"B, {robots[1].path}, round 1"
    assert report["teachers"] == {"oracle": 30}
    swapped = comparing.report(compare_runs(robots[::-1], tmp_path / "swapped", 30))
    assert (swapped["wins"] < 15) == (wins > 15)


def test_pairs_begin_alike(robots, tmp_path):
    """The toy's observations tell the step and the episode, whatever the policy does."""
    made = compare_runs(robots, tmp_path / "made", 8)
    with closing(FeedbackStore(made.feedback)) as store:
        episodes = set()
        for index in range(8):
            left, right = store.query(QueryId(0, index)).segments
            np.testing.assert_array_equal(left.observations, right.observations)
            episodes.add(float(left.observations[0, 1]))
    assert len(episodes) == 8, "each pair is of an episode of its own"


def test_a_comparison_repeats_itself(robots, tmp_path):
    reports = [comparing.report(compare_runs(robots, tmp_path / name, 6)) for name in "ab"]
    assert reports[0] == reports[1]


def test_a_language_model_is_as_good_as_itself(texts, tmp_path):
    made = compare_runs([texts[0], texts[0]], tmp_path / "made", 60)
    report = comparing.report(made)
    assert report["ties"] < 60, "the two said the same: they must be sampled apart"
    low, high = report["win_rate"]["interval"]
    assert low <= 0.5 <= high
    with closing(FeedbackStore(made.feedback)) as store:
        for index in range(60):
            left, right = store.query(QueryId(0, index)).segments
            assert left.observations[0] == right.observations[0] and left.task == right.task


def test_a_robot_that_meets_itself_ties(robots, tmp_path):
    report = comparing.report(compare_runs([robots[0], robots[0]], tmp_path / "made", 5))
    assert (report["ties"], report["win_rate"]) == (5, None)
    assert comparing.report_in_words(report)[-1] == "nothing was preferred; equal: 5, can't tell: 0"


@pytest.mark.parametrize("kind", ["robots", "texts"])
def test_any_function_may_judge(kind, request, tmp_path):
    runs = request.getfixturevalue(kind)
    made = compare_runs(runs, tmp_path / "left", 20, f"{__name__}:prefer_left")
    report = comparing.report(made)
    assert report["left"]["mean"] == 1.0
    with closing(FeedbackStore(made.feedback)) as store:
        lefts = [store.query(QueryId(0, n)).segments[0].source[0] == "A" for n in range(20)]
    assert report["wins"] == sum(lefts)
    made = compare_runs(runs, tmp_path / "skips", 3, f"{__name__}:undecided")
    assert comparing.report(made)["skips"] == 3


ADMIN = Request({"type": "http", "visitor": Visitor("")})


@pytest.mark.parametrize("kind", ["robots", "texts"])
def test_people_answer_on_the_page(kind, request, tmp_path):
    runs = request.getfixturevalue(kind)
    made = compare_runs(runs, tmp_path / "made", 6, "human", "Which pleases you?")
    assert comparing.report(made)["answered"] == 0
    view = View(made)
    with closing(view.feedback):
        told = view.about()
        assert (told["question"], told["budget"]) == ("Which pleases you?", 6)
        body = {"person": "Ada", "tab": "tab", "count": 3, "held": []}
        queries = view.next(ADMIN, body)["queries"]
        assert len(queries) == 3
        assert "taught" not in json.dumps(queries) and '"A, ' not in json.dumps(queries)
        forms = {clip["form"] for query in queries for clip in query["clips"]}
        assert forms == {"text" if kind == "texts" else "frames"}
        for number, query in enumerate(queries):
            said = {
                "ticket": query["ticket"],
                "person": "Ada",
                "kind": "preference",
                "value": {"left": 1.0},
                "uuid": f"u{number}",
                "shown_at": 1,
                "answered_at": 2,
            }
            view.answer(ADMIN, said)  # fmt: skip
        said = view.progress.trainer()["words"]
        assert said == "a comparison of two runs, without a trainer"
        view.next(ADMIN, body)  # the other three
        none = view.next(ADMIN, body | {"tab": "other"})
        assert none["queries"] == [] and f"compare --report {made.path}`" in none["words"]
    report = comparing.report(made)
    assert (report["answered"], report["pairs"], report["teachers"]) == (3, 6, {"Ada": 3})
    assert report["wins"] + report["losses"] == 3


def test_ties_and_skips_are_told_apart_and_sides_do_not_matter(robots, tmp_path):
    made = compare_runs(robots, tmp_path / "made", 8, "human")

    def says(query):
        if query.id.index in (0, 1):
            return "tie", {}
        if query.id.index == 2:
            return "skip", {}
        first_is_left = query.segments[0].source.startswith("A")
        return "preference", {
            "left": float(first_is_left if query.id.index < 7 else not first_is_left)
        }

    report = answered(made, says)
    assert (report["wins"], report["losses"], report["ties"], report["skips"]) == (4, 1, 2, 1)
    assert report["win_rate"] == share(4, 5)
    assert "A is better in 4 of 5: 80%" in "\n".join(comparing.report_in_words(report))


def test_two_people_count_as_one_answer(robots, tmp_path):
    made = compare_runs(robots, tmp_path / "made", 2, "human")
    with closing(FeedbackStore(made.feedback)) as store:
        for query in store.pending():
            for person, left in (("Ada", 1.0), ("Bo", 1.0 if query.id.index else 0.0)):
                store.answer(Answer(query.id, "preference", {"left": left}, person, 1.0, 2.0))
    report = comparing.report(made)
    assert (report["answered"], report["ties"], report["teachers"]) == (2, 1, {"Ada": 2, "Bo": 2})


def test_judged_knows_a_policy_by_its_side():
    def episodes(letter, value):
        return [
            Trajectory(np.full((1, 1), n), np.zeros((1, 1)), np.array([value]), {}, "", letter, n)
            for n in range(20)
        ]

    pairs = pairing.pair_up(episodes("A", 1.0), episodes("B", 0.0), None, 0)
    assert pairing.judged(pairs, pairing.judge_named("oracle", 0), "?", 0) == [1.0] * 20


def test_the_teacher_sees_no_reward(robots, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(toy_texts, "prefer_plainer", lambda a, b: seen.append((a, b)) or 0.25)
    made = compare_runs(robots, tmp_path / "made", 4, "toy_texts:prefer_plainer")
    assert all(type(segment) is Segment for pair in seen for segment in pair) and len(seen) == 4
    report = comparing.report(made)
    with closing(FeedbackStore(made.feedback)) as store:
        lefts = sum(store.query(QueryId(0, n)).segments[0].source[0] == "A" for n in range(4))
    assert report["win_rate"]["mean"] == (0.25 * lefts + 0.75 * (4 - lefts)) / 4


def test_compare_on_the_command_line(robots, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = (str(run.path) for run in robots)
    main(["compare", first, second, "--pairs", "4", "--teacher", "human", "--into", "ask"])
    out = capsys.readouterr().out
    assert "answered: 0 of 4 pairs, by nobody yet" in out
    assert "`prefrl label ask`" in out and "`prefrl compare --report ask`" in out
    answered(RunFolder("ask"), lambda query: ("tie", {}))
    main(["compare", "--report", "ask", "--json"])
    assert json.loads(capsys.readouterr().out)["ties"] == 4
    main(["compare", first, second, "--pairs", "2"])
    assert re.search(r"answered: 2 of 2 pairs, by oracle \(2\)", capsys.readouterr().out)
    (made,) = (tmp_path / "comparisons").iterdir()
    assert re.fullmatch(r"taught-fresh-\d{8}-\d{6}", made.name)


def test_a_comparison_is_no_run_to_go_on_with(robots, tmp_path):
    made = compare_runs(robots, tmp_path / "made", 2, "human")
    sentence = f"is a comparison of two runs, .* `prefrl compare --report {made.path}`"
    with pytest.raises(UserError, match=sentence):
        resume(made.path)
    with pytest.raises(UserError, match="has not finished a round"):
        load_policy(made.path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("A", "1 runs are named; expected two"),
        ("A B A", "3 runs are named"),
        ("A B --report A", "leave them out"),
        ("A B --pairs 0", "--pairs is 0"),
        ("A B --into A", "exists already; give the comparison another name"),
        ("A B --teacher nobody", "there is no teacher 'nobody'"),
        ("A text", "is of toy/Pay-v0, .* of texts/Letters-v0; only runs of the same"),
        ("A unfinished", "has not finished a round yet"),
        ("A /", "is not a run folder"),
        ("--report A", "is a run, not a comparison of two"),
    ],
)
def test_mistakes(words, sentence, robots, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    RunFolder.create("unfinished", tiny(), {})
    names = {"A": robots[0].path, "B": robots[1].path, "text": texts[0].path}
    arguments = [names.get(word, word) for word in words.split()]
    assert re.search(sentence, complaint(["compare", *arguments], capsys))
    assert [path.name for path in tmp_path.iterdir()] == ["unfinished"], "nothing was made"


def test_an_episode_that_is_too_short_for_a_clip():
    short = Trajectory(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(3), source="A")
    with pytest.raises(UserError, match="a clip lasts 5 steps"):
        pairing.pair_up([short], [short], 5, 0)


def test_of_two_clips_at_least_one_moves_for_half_of_its_steps():
    def episode(letter, number, life):
        steps = np.arange(100.0)
        extras = {"ended": steps >= life}
        return Trajectory(steps[:, None], steps[:, None], steps, extras, "", letter, number)

    first = [episode("A", number, 10) for number in range(40)]
    second = [episode("B", number, 40) for number in range(40)]
    starts = set()
    for one, other in pairing.pair_up(first, second, 20, 0).pairs:
        assert np.array_equal(one.observations, other.observations), "they show the same steps"
        starts.add(int(one.observations[0, 0]))
    assert min(starts) < 5 and 25 < max(starts) <= 30


def test_a_question_of_two_tasks_is_none():
    one, other = (
        Trajectory(np.array(["?"]), np.array(["!"]), np.zeros(1), task=name, source=letter)
        for name, letter in (("x", "A"), ("y", "B"))
    )
    with pytest.raises(ValueError, match="task"):
        pairing.queries_of(pairing.pair_up([one], [other], None, 0), "?", 0)
