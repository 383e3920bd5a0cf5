"""Whether the newest policy is better than the one of a round ago, by what was answered."""

import signal

import numpy as np
import pytest
import torch
import toy_texts  # noqa: F401
from complaints import complaint
from processes import command, run
from test_agent import assert_same
from test_experiment import assert_replayed, assert_same_run
from test_text_select import Plainness, make_agent, words
from toy_texts import save_small_model

from prefrl.cli import main
from prefrl.commands.worries import worries
from prefrl.learning.newer import newer_wins
from prefrl.learning.statistics import share
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.text.environments import play, task_seed
from prefrl.types import Comparison, Counts, QueryId, Segment

FLAT = np.zeros((1, 1))
ASKED = QueryId(2, 0)


def clip(name, source):
    return Segment(name, FLAT, FLAT, {}, "a task", source)


def compared(left, right, preference, query=ASKED, aspect=""):
    clips = clip(f"left of {query}", left), clip(f"right of {query}", right)
    return Comparison(*clips, preference, query=query, aspect=aspect)


# --- by how many answers ----------------------------------------------------------------------


def test_a_newer_policy_wins_on_either_side():
    told = newer_wins(
        [
            compared("round 2", "round 1", 1.0, QueryId(2, 0)),
            compared("round 1", "round 2", 0.0, QueryId(2, 1)),
            compared("round 1", "round 2", 1.0, QueryId(2, 2)),
        ]
    )
    assert told["newer_wins"] == pytest.approx(2 / 3)
    assert told["newer_wins_low"] < 2 / 3 < told["newer_wins_high"]


def test_round_10_is_newer_than_round_9():
    assert newer_wins([compared("round 10", "round 9", 1.0)])["newer_wins"] == 1.0


def test_an_order_counts_once_and_a_tie_for_half():
    order = [compared("round 2", "round 1", p, QueryId(2, 0)) for p in (1.0, 1.0, 1.0, 0.0)]
    told = newer_wins([*order, compared("round 2", "round 1", 0.5, QueryId(2, 1))])
    assert told["newer_wins"] == pytest.approx((0.75 + 0.5) / 2)


def test_where_all_agree_there_is_doubt_left():
    told = newer_wins([compared("round 2", "round 1", 1.0, QueryId(2, n)) for n in range(9)])
    assert [told["newer_wins_low"], told["newer_wins_high"]] == share(9, 9)["interval"]


def test_only_the_newest_answers_about_two_policies_count():
    told = newer_wins(
        [
            compared("round 1", "round 0", 1.0, QueryId(1, 0)),
            compared("round 2", "round 1", 0.0, QueryId(2, 0)),
            compared("round 3", "round 3", 1.0, QueryId(3, 0)),
        ]
    )
    assert told["newer_wins"] == 0.0


def test_each_aspect_is_told_by_itself():
    told = newer_wins([compared("round 2", "round 1", 1.0, aspect=a) for a in ("short", "kind")])
    assert told["short.newer_wins"] == told["kind.newer_wins"] == 1.0 and "newer_wins" not in told


@pytest.mark.parametrize(
    "comparison",
    [
        compared("round 1", "round 1", 1.0),
        compared("a file", "round 1", 1.0),
        compared("round 2", "round 1", 1.0, QueryId(-1, 0)),
    ],
)
def test_nothing_is_told_where_nothing_is_known(comparison):
    assert newer_wins([comparison]) == newer_wins([]) == {}


# --- who replies ------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", ["select", "ppo", "hindsight"])
def test_the_policy_of_a_round_ago_replies_to_the_same_tasks(learner):
    agent = make_agent(text={"previous_share": 0.25}, learner=learner)
    agent.explore(32)
    assert not agent.previous, "nothing has changed yet"
    before = [weights.clone() for weights in agent.networks.trained_of_policy()]
    first, _ = agent.train(Plainness(), 64)
    assert {trajectory.source for trajectory in first} == {"round 1"}
    after = [weights.clone() for weights in agent.networks.trained_of_policy()]
    assert not all(map(torch.equal, before, after)), "it has learned"
    each = max(1, round(0.25 * agent.options.completions_per_task))
    played = 64 // agent.options.completions_per_task
    assert len(agent.previous) == each * played
    seeds = [task_seed(0, agent.tasks + n) for n in range(played) for _ in range(each)]

    agent.policy.chance.replies -= len(seeds)
    for weights, earlier in zip(agent.networks.trained_of_policy(), before, strict=True):
        weights.data.copy_(earlier)
    agent.policy.instruction = ""
    again = play(agent.environments, agent.policy, seeds)
    assert [e.actions for e in again] == [[*t.actions] for t in agent.previous]
    for weights, later in zip(agent.networks.trained_of_policy(), after, strict=True):
        weights.data.copy_(later)

    expected = agent.previous
    second, _ = agent.train(Plainness(), 64)
    old = [trajectory for trajectory in second if trajectory.source == "round 1"]
    assert old == [t for t in expected if t.task in {o.task for o in old}] and len(old) >= each
    newest = [trajectory for trajectory in second if trajectory.source == "round 2"]
    assert {t.task for t in old} <= {t.task for t in newest}
    assert len({(t.source, t.episode) for t in [*first, *second]}) == len(first) + len(second)
    assert len(newest) + len(expected) >= 64 > len(newest) - agent.options.episodes + len(expected)


def test_asking_about_the_past_changes_nothing_of_the_policy():
    """The weights after a round are those of a run that never asked."""
    agents = [make_agent(text={"previous_share": share}) for share in (0.0, 0.5)]
    for agent in agents:
        agent.train(Plainness(), 32)
    plain, asked = (agent.networks.trained_of_policy() for agent in agents)
    assert all(map(torch.equal, plain, asked))


def test_what_it_replied_is_taken_up():
    agent = make_agent(text={"previous_share": 0.25})
    agent.train(Plainness(), 32)
    other = make_agent(text={"previous_share": 0.25})
    other.load_state_dict(from_bytes(to_bytes(agent.state_dict())))
    told, again = (each.train(Plainness(), 32) for each in (agent, other))
    assert told[1] == again[1]
    assert [[*t.actions] for t in told[0]] == [[*t.actions] for t in again[0]]
    assert_same(*(from_bytes(to_bytes(each.state_dict())) for each in (agent, other)))


# --- runs -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


TAUGHT = ("--teacher", "toy_texts:prefer_plainer", "--text.previous-share", "0.5")


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    main(words(model, "select*2, ppo", *TAUGHT, "--run", str(path)))
    return path


def test_each_round_says_whether_its_policy_is_preferred(finished):
    lines = RunFolder(finished).metrics()
    assert ["newer_wins" in line for line in lines] == [False, False, False, True, True]
    assert 0 <= lines[3]["newer_wins_low"] <= lines[3]["newer_wins"] <= lines[3]["newer_wins_high"]
    store = FeedbackStore(RunFolder(finished).feedback, read_only=True)
    sources = {(c.left.source, c.right.source) for c in store.comparisons()}
    store.close()
    assert any(left != right for left, right in sources)
    assert lines[-1]["steps"] == pytest.approx(64, abs=8)


@pytest.mark.parametrize("moment", [{"TOY_KILL_AT_TURN": "50"}, {"TOY_KILL_AT_ANSWER": "15"}])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(moment, model, finished, tmp_path):
    path = tmp_path / "killed"
    given = words(model, "select*2, ppo", *TAUGHT, "--run", path)
    done = run(**command(given, ("-m", "prefrl.cli"), **moment))
    assert done.returncode == -signal.SIGKILL, done.stderr
    main(["resume", str(path)])
    assert_same_run(path, finished)


def test_a_run_is_replayed(finished, tmp_path):
    assert_replayed(finished, tmp_path / "again")


def test_a_policy_that_became_worse_is_told_of():
    counts = Counts(50, 50, 50, 0)
    worse = {"newer_wins": 0.2, "newer_wins_low": 0.1, "newer_wins_high": 0.4}
    assert "preferred in 20% of the answers" in worries({}, worse, counts)["worse"]
    assert "worse" not in worries({}, worse | {"newer_wins_high": 0.55}, counts)


def test_a_share_of_nothing_that_is_asked_is_refused(model, tmp_path, capsys):
    given = words(model, "ppo", "--text.previous-share", ".5", "--run", str(tmp_path / "run"))
    given += ["--reward", "true"]
    assert "--text.previous-share is 0.5, but" in complaint(given, capsys)
