"""The loop, driven with fakes of numbers and of words: what it does when, and what it survives."""

import dataclasses
import math
from contextlib import closing
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import (
    FakeAgent,
    FakeTeacher,
    Killed,
    LinearReward,
    LoggedStore,
    NumberWorld,
    WordWorld,
    make_segment,
    make_trajectory,
    picture_of,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, many

from prefrl.config.learning import FitConfig, LoopConfig, QueryConfig
from prefrl.errors import UserError
from prefrl.learning import loop, pacing, selection
from prefrl.learning.loop import LoopState, preference_loop
from prefrl.learning.pacing import ByBudget, ByPeople, answers_needed, labels_due
from prefrl.learning.selection import ACQUISITIONS, select
from prefrl.learning.true_reward import TrueReward
from prefrl.storage.checkpoint import from_bytes, to_bytes
from prefrl.storage.feedback import FeedbackStore
from prefrl.types import Answer, Counts, Query, QueryId, subsample

QUESTION = "Which one is better?"
CONFIG = LoopConfig(
    seed=3,
    rounds=4,
    steps=400,
    labels=24,
    clip_steps=None,
    question=QUESTION,
    query=QueryConfig(explore_steps=200, pool=3, decay_steps=300.0),
    fit=FitConfig(epochs=2, first_epochs=4, batch_size=8, enough_out_of_bag=3),
)
WORLDS = [NumberWorld, WordWorld]


def config_of(world, **changes):
    return dataclasses.replace(CONFIG, clip_steps=world.clip_steps, **changes)


class Run:
    """Everything a run is made of, fresh or from a checkpoint."""

    def __init__(self, path, world=NumberWorld, saved=None, reward_model=None, **changes):
        self.log = []
        self.config = config_of(world, **changes)
        self.agent = FakeAgent(world(), seed=5, log=self.log)
        self.reward_model = reward_model or LinearReward(world(), log=self.log)
        self.teacher = FakeTeacher(QUESTION, self.log)
        self.feedback = LoggedStore(path, self.log)
        learned = None if isinstance(self.reward_model, TrueReward) else self.reward_model
        self.state = LoopState(learned, self.config)
        if saved is not None:
            state = from_bytes(saved)
            self.agent.load_state_dict(state["agent"])
            self.reward_model.load_state_dict(state["reward_model"])
            self.state.load_state_dict(state["loop"])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.feedback.close()

    def save(self):
        return to_bytes(
            {
                "agent": self.agent.state_dict(),
                "reward_model": self.reward_model.state_dict(),
                "loop": self.state.state_dict(),
            }
        )

    def pacing(self):
        return ByBudget(self.config, self.teacher)

    def rounds(self):
        return preference_loop(
            self.agent, self.reward_model, self.pacing(), self.feedback, self.config, self.state
        )

    def done(self):
        """Yield each round once it is done; a prompt teacher is never waited for."""
        for now in self.rounds():
            assert now.state != "waiting"
            if now.state == "done":
                yield now

    def finish(self, keep=None):
        """Run to the end; return each round's metrics. `keep` gets a checkpoint a round."""
        metrics = []
        for done in self.done():
            metrics.append(done.metrics)
            if keep is not None:
                keep.append(self.save())
        return metrics


def contents(path):
    """Return what a store holds, but for the clock."""
    with closing(FeedbackStore(path)) as store:
        queries = [
            (query.id, query.question, [segment.id for segment in query.segments])
            for query in store._queries("")
        ]
        answers = [(a.query, a.kind, a.value, a.teacher) for a in store.answers()]
        return queries, answers, [store.ledger(index) for index in range(CONFIG.rounds + 2)]


@pytest.fixture(params=WORLDS, ids=["numbers", "words"])
def world(request):
    return request.param


# --- one lap ----------------------------------------------------------------------------------


def spy(monkeypatch, log, **homes):
    for name, home in homes.items():
        original = getattr(home, name)

        def noted(*arguments, _name=name, _original=original):
            log.append(_name)
            return _original(*arguments)

        monkeypatch.setattr(home, name, noted)


def test_a_lap_is_answers_fit_calibrate_train_cut_choose_ask(tmp_path, world, monkeypatch):
    with Run(tmp_path / "store", world) as run:
        spy(monkeypatch, run.log, fit=loop, cut=selection, propose=selection, choose=selection)
        laps = []
        for done in run.done():
            laps.append(list(run.log))
            run.log.clear()
            assert done.index == len(laps) - 1 and run.state.round == len(laps)
    asking = ["cut", "propose", "choose", "ask"]
    learning = ["answers", "fit", "calibrate", "train"]
    assert laps == [
        ["answers", "explore", *asking],
        *[[*learning, *asking]] * (CONFIG.rounds - 1),
        [*learning, "ask"],  # no fit comes after it, so nothing is asked
    ]


def test_a_round_tells_what_it_is_about_to_do(tmp_path):
    with Run(tmp_path / "store") as run:
        now = [(now.index, now.state, tuple(run.log)) for now in run.rounds()]
    assert [entry[:2] for entry in now] == [
        (0, "exploring"),
        (0, "done"),
        *((i, s) for i in range(1, CONFIG.rounds + 1) for s in ("fitting", "training", "done")),
    ]
    counts = {"exploring": "explore", "training": "train"}
    for (_, state, before), (_, _, after) in pairwise(now):
        if state in counts:
            assert after.count(counts[state]) == before.count(counts[state]) + 1


def test_the_same_loop_teaches_numbers_and_words(tmp_path, world):
    fit = FitConfig(learning_rate=0.03, batch_size=16, epochs=10, first_epochs=50, l2=1e-4)
    with Run(tmp_path / "store", world, rounds=8, steps=2400, labels=120, fit=fit) as run:
        metrics = run.finish()
        assert run.feedback.counts()[:4] == (120, 120, 120, 0)
    returns = [line["true_return"] for line in metrics[1:]]
    assert returns[-1] > returns[0] + 0.3, "it learned nothing"
    assert metrics[-1]["out_of_bag_accuracy"] > 0.7
    assert all(math.isfinite(value) for line in metrics for value in line.values())


def test_rewards_are_calibrated_on_what_the_newest_policy_did(tmp_path, world):
    with Run(tmp_path / "store", world) as run:
        played, play = [], run.agent._play
        run.agent._play = lambda *how: played.append(play(*how)) or played[-1]
        for done in run.done():
            if done.index:
                newest = np.concatenate([t.observations for t in played[done.index - 1]])
                np.testing.assert_array_equal(run.reward_model.calibrated_on, newest)


def test_the_steps_of_a_run_are_spread_over_its_rounds(tmp_path):
    asked, played = [], [0]
    with Run(tmp_path / "store", rounds=7, steps=403) as run:
        train = run.agent.train

        def noted(reward_model, steps):
            trajectories, metrics = train(reward_model, steps)
            asked.append(steps)
            played.append(played[-1] + sum(map(len, trajectories)))
            return trajectories, metrics

        run.agent.train = noted
        metrics = run.finish()
    assert [line["round"] for line in metrics] == list(range(8))
    assert [line["steps"] for line in metrics] == played, "exploration is not counted"
    # An agent plays whole episodes of ten; what is too much in one round is less in a later one.
    assert asked == [403 * index // 7 - played[index - 1] for index in range(1, 8)]
    assert 403 <= played[-1] < 413


def test_metrics_tell_what_the_fit_was_given(tmp_path):
    with Run(tmp_path / "store") as run:
        run.teacher.skips = lambda query: query.id.index % 4 == 3
        metrics, counts = [], []
        for now in run.rounds():
            if now.state in ("exploring", "fitting"):
                counts.append(now.counts)
            elif now.state == "done":
                metrics.append(now.metrics)
    for line, seen in zip(metrics, counts, strict=True):
        assert (line["asked"], line["answered"], line["decisive"]) == seen[:3]
        assert line["clips"] == seen.clips == 2 * seen.answered
    assert counts[0] == Counts(0, 0, 0, 0)
    assert counts[1].asked > counts[1].answered > 0
    assert metrics[1].keys() > {"train_loss", "out_of_bag_accuracy", "l2", "true_return", "steps"}


def test_what_an_agent_reports_does_not_hide_what_the_loop_reports(tmp_path):
    with Run(tmp_path / "plain") as run:
        expected = run.finish()
    with Run(tmp_path / "liar") as run:
        train, lies = run.agent.train, dict.fromkeys(["steps", "answered", "train_loss"], -1.0)

        def lying(*arguments):
            trajectories, metrics = train(*arguments)
            return trajectories, metrics | lies

        run.agent.train = lying
        assert run.finish() == expected


def test_timings_name_the_parts_of_a_round(tmp_path):
    with Run(tmp_path / "store") as run:
        timings = [done.timings for done in run.done()]
    assert timings[0].keys() == {"train", "choose", "answers"}
    assert timings[1].keys() == {"fit", "train", "choose", "answers"}
    assert all(seconds >= 0 for line in timings for seconds in line.values())


# --- labels -----------------------------------------------------------------------------------

label_configs = st.builds(
    lambda labels, rounds, per_round, decay, share: dataclasses.replace(
        CONFIG,
        labels=labels,
        rounds=rounds,
        steps=rounds * per_round,
        query=QueryConfig(first_share=share, decay_steps=decay),
    ),
    st.integers(0, 3000),
    st.integers(1, 60),
    st.integers(1000, 50_000),
    st.floats(3e4, 1e7),
    st.floats(0.01, 1),
)


@many
@given(label_configs)
def test_labels_are_due_at_a_hyperbolic_rate_and_all_before_the_last_fit(config):
    due = [labels_due(config, index) for index in range(config.rounds + 1)]
    assert due == sorted(due), "the budget shrinks"
    assert due[0] >= min(1, config.labels), "the first fit needs a label"
    assert due[config.rounds - 1] == due[config.rounds] == config.labels
    last, share = config.rounds - 1, config.query.first_share
    if last == 0:
        return
    assert due[0] == max(round(config.labels * share), min(1, config.labels))
    steps = np.linspace(0, last * config.steps / config.rounds, 200 * last + 1)
    rate = config.query.decay_steps / (config.query.decay_steps + steps)
    area = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2)])[::200]
    expected = config.labels * (share + (1 - share) * area / area[-1])
    assert np.abs(expected - due[:-1]).max() <= 0.51 + max(0, 1 - expected[0])


def test_a_quarter_of_the_labels_is_about_the_untrained_policy():
    config = dataclasses.replace(CONFIG, labels=700, rounds=25, query=QueryConfig(first_share=0.25))
    assert labels_due(config, 0) == 175


def test_each_round_asks_what_is_due(tmp_path, world):
    with Run(tmp_path / "store", world) as run:
        before = 0
        for done in run.done():
            due = labels_due(run.config, done.index)
            assert (done.counts.asked, done.counts.answered) == (due, before)
            assert done.counts.pending == due - before
            before = due
        assert run.feedback.counts().answered == CONFIG.labels


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_a_tiny_budget_is_spent_in_time(tmp_path, labels):
    with Run(tmp_path / "store", labels=labels) as run:
        run.finish()
        assert run.feedback.ledger(0) == (0, 1)
        assert run.feedback.counts()[:4] == (labels, labels, labels, 0)


def test_skipped_queries_are_asked_for_again_and_labels_never_exceed_the_budget(tmp_path, world):
    with Run(tmp_path / "store", world, rounds=8, steps=800) as run:
        run.teacher.skips = lambda query: query.id.index % 3 == 0
        for done in run.done():
            due, answered = labels_due(run.config, done.index), done.counts.answered
            asked = run.feedback.ledger(done.index)[1]
            assert asked == (due - answered if done.index < run.config.rounds else 0)
            assert answered <= due <= CONFIG.labels
            pairs = [frozenset(s.id for s in q.segments) for q in run.feedback._queries("")]
            assert len(set(pairs)) == len(pairs), "the same pair again"
        skipped = done.counts.asked - answered
        assert skipped > 8 and answered > CONFIG.labels - 3


def test_a_teacher_who_can_never_tell_is_told_so(tmp_path):
    with Run(tmp_path / "store") as run:
        run.teacher.skips = lambda query: True
        first = labels_due(CONFIG, 0)
        with pytest.raises(UserError, match=rf"\({first} queries were asked, all skipped\)"):
            run.finish()


def test_no_labels_and_no_answers_from_elsewhere_is_a_sentence(tmp_path):
    with Run(tmp_path / "store", labels=0) as run:
        with pytest.raises(UserError, match=r"--labels 0\).*prefrl import`.*--from"):
            run.finish()
        assert run.agent.updates == 0 and run.state.round == 1, "it goes on once there are some"
        clips = tuple(make_segment(name) for name in "ab")
        answer = Answer(QueryId(-1, 0), "preference", {"left": 1.0})
        run.feedback.record([Query(QueryId(0, 0), clips)], [answer], "old")
        assert "train_loss" in run.finish()[-1]


def test_the_true_reward_learns_from_no_answer(tmp_path):
    with Run(tmp_path / "store", reward_model=TrueReward(), labels=0) as run:
        clips = tuple(make_segment(name) for name in "ab")
        run.feedback.record([Query(QueryId(0, 0), clips)], [Answer(QueryId(-1, 0), "tie")], "old")
        assert "train_loss" not in run.finish()[-1]


def test_the_true_reward_asks_nothing(tmp_path, world):
    changes = {"labels": 0, "rounds": 8, "steps": 2400}
    with Run(tmp_path / "store", world, reward_model=TrueReward(), **changes) as run:
        metrics = run.finish()
        assert run.feedback.counts()[:4] == (0, 0, 0, 0)
        assert [run.feedback.ledger(index) for index in range(9)] == [(0, 0)] * 9
    assert metrics[-1]["steps"] >= 2400 and "train_loss" not in metrics[-1]
    assert metrics[-1]["true_return"] > metrics[1]["true_return"]


# --- which queries ----------------------------------------------------------------------------


@pytest.mark.parametrize("acquisition", ["disagreement", "entropy"])
def test_the_first_round_is_uniform_and_later_ones_choose(tmp_path, monkeypatch, acquisition):
    chosen, original = [], selection.choose

    def noted(candidates, count, acquisition, reward_model):
        chosen.append((acquisition, len(candidates) / count))
        return original(candidates, count, acquisition, reward_model)

    monkeypatch.setattr(selection, "choose", noted)
    query = dataclasses.replace(CONFIG.query, acquisition=acquisition)
    with Run(tmp_path / "store", query=query) as run:
        run.finish()
    first, *others = chosen
    assert first == (ACQUISITIONS["uniform"], 1)
    assert others == [(ACQUISITIONS[acquisition], CONFIG.query.pool)] * (CONFIG.rounds - 1)


def test_select_returns_queries_with_their_clips_true_rewards_alone():
    trajectories = [make_trajectory(30, episode=episode) for episode in range(4)]
    model = LinearReward(type("World", (), {"size": 1, "features": lambda s, o, a: o})())
    config = dataclasses.replace(CONFIG, clip_steps=5)
    queries, rewards = select(trajectories, model, config, 2, 6)
    assert [query.id for query in queries] == [(2, index) for index in range(6)]
    assert {query.question for query in queries} == {QUESTION}
    shown = {segment.id: segment for query in queries for segment in query.segments}
    assert rewards.keys() == shown.keys()
    for name, segment in shown.items():
        assert rewards[name].tolist() == (10 * segment.observations[:, 0]).tolist()
    again, _ = select(trajectories, model, config, 2, 6)
    other, _ = select(trajectories, model, config, 3, 6)
    ids = [[[s.id for s in q.segments] for q in asked] for asked in (queries, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert select(trajectories, model, config, 2, 0) == ([], {})


def test_too_few_clips_for_the_queries_is_a_sentence():
    config = dataclasses.replace(CONFIG, clip_steps=5)
    with pytest.raises(UserError, match=r"4 queries were due in round 1, but its 7 steps .* 3 pai"):
        select([make_trajectory(7)], None, config, 1, 4)
    with pytest.raises(UserError, match="a clip lasts 5 steps"):
        select([make_trajectory(4)], None, config, 0, 1)


# --- teachers who take their time -------------------------------------------------------------


@pytest.fixture
def naps(monkeypatch):
    """Return the seconds slept, without sleeping them."""
    seconds = []
    monkeypatch.setattr(pacing.time, "sleep", seconds.append)
    return seconds


def test_the_loop_says_that_it_waits_and_does_not_mind(tmp_path, naps):
    with Run(tmp_path / "prompt") as run:
        expected = run.finish()
    with Run(tmp_path / "slow") as run:
        states, metrics = [], []
        for now in run.rounds():
            if now.state in ("waiting", "done"):
                states.append((now.index, now.state))
            if now.state == "done":
                metrics.append(now.metrics)
                run.teacher.sleeps = 2 if now.index < 2 else 0
            elif now.state == "waiting":
                assert now.counts.pending > 0 and now.metrics == {}
                assert run.state.round == now.index, "the round is not over"
    waiting = [(index, "waiting") for index in (1, 1, 2, 2)]
    done = [(index, "done") for index in range(CONFIG.rounds + 1)]
    assert states == [done[0], *waiting[:2], done[1], *waiting[2:], *done[2:]]
    assert metrics == expected
    assert naps == [pacing.WAIT_SECONDS] * 4


def test_a_person_answers_through_a_file_of_their_own(tmp_path, naps):
    class Nobody:
        sees_true_rewards = False

        def answer(self, queries, truth):
            return []

    with Run(tmp_path / "store") as run, closing(FeedbackStore(tmp_path / "store")) as person:
        run.teacher, now = Nobody(), []
        for round_ in run.rounds():
            now.append((round_.index, round_.state, round_.counts.pending))
            if round_.state == "waiting":
                query = person.pending()[0]
                person.answer(Answer(query.id, "preference", {"left": 1.0}, "person"))
        assert run.feedback.counts()[:4] == (CONFIG.labels, CONFIG.labels, CONFIG.labels, 0)
    first = labels_due(CONFIG, 0)
    assert now[: first + 3] == [
        (0, "exploring", 0), (0, "done", first),
        *[(1, "waiting", left) for left in range(first, 0, -1)], (1, "fitting", 0),
    ]  # fmt: skip
    assert len(naps) == CONFIG.labels


def test_answers_to_earlier_rounds_are_learned_from_in_the_next(tmp_path):
    """Somebody changes an old answer while the trainer trains: the next fit sees it, once."""
    with Run(tmp_path / "plain") as run:
        plain = run.finish()
    with Run(tmp_path / "edited") as run:
        metrics = []
        for done in run.done():
            metrics.append(done.metrics)
            if done.index == 1:
                for answer in run.feedback.answers()[:4]:
                    value = {"left": 1 - answer.value["left"]}
                    run.feedback.answer(dataclasses.replace(answer, value=value, uuid=""))
    assert metrics[:2] == plain[:2] and metrics[2] != plain[2]
    assert metrics[2]["answered"] == plain[2]["answered"], "an edit is no new label"


# --- people, who answer in their own time ------------------------------------------------------

PEOPLE = {"labels": 100, "rounds": 8, "steps": 800}


class People(Run):
    """A run without a teacher; whoever answers does so between what the loop tells."""

    def __init__(self, path, world=NumberWorld, saved=None, **changes):
        super().__init__(path, world, saved, **PEOPLE | changes)
        self.yielded = []

    def pacing(self):
        distance = getattr(self.reward_model, "distance", None)
        return ByPeople(self.config, self.agent.pictures, distance)

    def live(self, act):
        """Run to the end; `act` is called with whatever the loop tells."""
        for now in self.rounds():
            self.yielded.append(now)
            assert len(self.yielded) < 3000, "it waits for ever"
            act(now)
        return [now.metrics for now in self.yielded if now.state == "done"]

    def say(self, query, kind="preference", teacher="person"):
        value = {}
        if kind == "preference":
            left, right = (self.feedback.true_rewards(s.id).sum() for s in query.segments)
            value = {"left": float(left > right)}
        self.feedback.answer(Answer(query.id, kind, value, teacher))

    def answer_one(self, now):
        """Answer the oldest query, but only when the loop has nothing else to do."""
        if now.state == "waiting":
            self.say(self.feedback.pending()[0])


def test_people_get_thirty_pairs_at_first_and_a_round_begins_with_just_enough_answers(
    tmp_path, world, naps
):
    assert (pacing.FIRST_ANSWERS, pacing.SPARE_QUERIES) == (15, 15)
    with People(tmp_path / "store", world) as run:
        run.live(run.answer_one)
        assert run.feedback.ledger(0) == (0, 30)
        assert run.agent.updates == 8
    begun = [now.counts.answered for now in run.yielded if now.state in ("exploring", "fitting")]
    assert begun == [answers_needed(run.config, index) for index in range(9)]
    # 12.5 a round, with the trainer one round ahead; the last fit is given all there are.
    assert begun == [0, 15, 15, 25, 38, 50, 62, 75, 100]
    waits = [now.index for now in run.yielded if now.state == "waiting"]
    assert [waits.count(index) for index in range(9)] == [0, *np.diff(begun)]
    assert all(now.counts.answered < answers_needed(run.config, now.index) for now in run.yielded
               if now.state == "waiting")  # fmt: skip
    assert naps == [pacing.WAIT_SECONDS] * len(waits)


def test_people_who_are_quick_are_not_waited_for(tmp_path):
    def act(now):
        if now.state == "done":
            for query in run.feedback.pending():
                run.say(query)

    with People(tmp_path / "store") as run:
        metrics = run.live(act)
        assert run.feedback.counts()[:4] == (100, 100, 100, 0)
    assert "waiting" not in {now.state for now in run.yielded}
    assert [line["answered"] for line in metrics] == [0, 30, 45, 60, 75, 90, 100, 100, 100]


@pytest.mark.parametrize("labels", [1, 7, 15, 20])
def test_a_small_budget_of_people_is_all_asked_at_once(tmp_path, naps, labels):
    with People(tmp_path / "store", labels=labels) as run:
        run.live(run.answer_one)
        assert run.feedback.ledger(0).asked == labels
    begun = [now.counts.answered for now in run.yielded if now.state == "fitting"]
    assert begun[0] == min(labels, 15) and begun == sorted(begun)


actions = st.sampled_from(["answer", "answer", "tie", "skip", "undo", "new person", "nothing"])


@few
@given(st.integers(16, 120), st.lists(st.lists(actions, max_size=9), min_size=1, max_size=30))
def test_whatever_people_do_there_is_enough_to_answer_and_no_more_than_the_budget(labels, moods):
    """Of any round: pairs to spare while the budget lasts, never more than it, and no deadlock."""
    undone = sum(mood.count("undo") for mood in moods)
    moods = [*moods, ["answer"] * (undone + 1)]  # in the end, more is answered than taken back

    def act(now):
        if now.state == "done" and now.index < run.config.rounds:
            counts = run.feedback.counts()
            spare = min(pacing.SPARE_QUERIES, labels - counts.answered)
            assert counts.pending >= spare, "somebody will have to wait"
            assert counts.answered + counts.pending <= labels
        for action in moods[len(run.yielded) % len(moods)]:
            pending, said = run.feedback.pending(), run.feedback.answers()
            if action == "undo" and said:
                run.say(run.feedback.query(said[-1].query), "retraction", said[-1].teacher)
            elif action == "new person" and said:
                run.say(run.feedback.query(said[0].query), teacher="another")
            elif action in ("answer", "tie", "skip") and pending:
                kind = {"answer": "preference"}.get(action, action)
                run.say(pending[len(run.yielded) % len(pending)], kind)

    with People(":memory:", labels=labels) as run, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pacing.time, "sleep", lambda seconds: None)
        run.live(act)
        assert run.agent.updates == run.config.rounds


def test_people_who_skip_all_at_first_are_asked_about_other_clips(tmp_path, naps):
    def act(now):
        skipping = run.feedback.counts().asked <= 60
        for query in run.feedback.pending() if now.state == "waiting" else ():
            run.say(query, "skip" if skipping else "preference")

    with People(tmp_path / "store") as run:
        metrics = run.live(act)
        assert [run.feedback.ledger(index).asked for index in range(3)] == [30, 30, 40]
        assert run.agent.updates == run.config.rounds - 2
        pairs = [frozenset(s.id for s in q.segments) for q in run.feedback._queries("")]
    assert len(set(pairs)) == len(pairs)
    assert run.log[:5] == ["explore", "ask", "explore", "ask", "explore"]
    states = [(now.index, now.state) for now in run.yielded if now.state != "waiting"]
    assert states[:7] == [
        (0, "exploring"), (0, "done"), (1, "exploring"), (1, "done"), (2, "exploring"), (2, "done"),
        (3, "fitting"),
    ]  # fmt: skip
    assert [line["steps"] for line in metrics[:3]] == [0, 0, 0]
    assert metrics[-1]["steps"] >= run.config.steps, "what was not trained then is trained later"


@pytest.mark.parametrize(("labels", "decay"), [(50, 1e5), (300, 1e5), (301, 2e6)])
def test_few_labels_are_asked_early(labels, decay):
    query = QueryConfig(first_share=0.2)
    config = LoopConfig(0, 11, 1_000_000, labels, 4, "?", query, FitConfig())
    for index in range(11):
        said = dataclasses.replace(config, query=dataclasses.replace(query, decay_steps=decay))
        assert labels_due(config, index) == labels_due(said, index)
    share = 0.2 + 0.8 * math.log1p(1e6 / 11 / decay) / math.log1p(1e7 / 11 / decay)
    assert labels_due(config, 1) == round(share * labels)


@pytest.mark.parametrize(("clips", "spare"), [(3, 10), (4, 8), (6, 5), (9, 5)])
def test_orders_of_many_clips_are_kept_at_hand_in_smaller_number(clips, spare):
    """They take a person longer, and are out of date sooner."""
    query = QueryConfig(kind="ranking", clips=clips)
    config = LoopConfig(0, 8, 800, 100, 4, "?", query, FitConfig())
    store = SimpleNamespace(expire=lambda before: None, counts=lambda: Counts(0, 0, 0, 0))
    due = ByPeople(config, None, None).queries_due(store, 0)
    assert due == answers_needed(config, 1) + spare


def test_people_who_never_can_tell_are_told_so_in_the_end(tmp_path, naps):
    def skip(now):
        for query in run.feedback.pending():
            run.say(query, "skip")

    with People(tmp_path / "store") as run:
        with pytest.raises(UserError, match=r"\(485 queries were asked, all skipped\)"):
            run.live(skip)
        needed = [answers_needed(run.config, index) for index in range(1, 9)]
        assert sum(min(n + pacing.SPARE_QUERIES, 100) for n in needed) == 485
        assert run.agent.updates == 0


def test_people_who_tire_of_it_and_skip_are_not_waited_for(tmp_path, naps):
    def act(now):
        for query in run.feedback.pending() if now.state == "waiting" else ():
            run.say(query, "preference" if run.feedback.counts().answered < 20 else "skip")

    with People(tmp_path / "store") as run:
        metrics = run.live(act)
        assert run.feedback.counts()[1:4] == (20, 20, 0)
        for index in range(4, 8):
            due = answers_needed(run.config, index + 1) + pacing.SPARE_QUERIES
            assert run.feedback.ledger(index).asked == min(due, 100) - 20
    assert len(metrics) == 9


def test_old_pairs_expire_unless_somebody_looks_at_them(tmp_path, naps):
    """Pairs of policies that are long gone make room for others; there are always some to spare."""
    looked_at = 3
    ignored = []

    def act(now):
        if now.state == "done" and now.index == 0:
            ignored.extend(query.id for query in run.feedback.pending()[:8])
            run.feedback.database.connection.execute(
                "INSERT INTO lease VALUES (?, ?, 'person', 'tab', 0, 1e12)", ignored[looked_at]
            )
        if now.state == "waiting":
            pending = run.feedback.pending()
            run.say(next((q for q in pending if q.id not in ignored), pending[0]))
        left = {query.id for query in run.feedback.pending()} & set(ignored)
        if now.state == "done" and now.index < run.config.rounds:
            old = now.index > pacing.EXPIRE_ROUNDS
            assert left == ({ignored[looked_at]} if old else set(ignored))
            assert run.feedback.counts().pending >= pacing.SPARE_QUERIES

    with People(tmp_path / "store") as run:
        run.live(act)


def test_people_are_not_asked_about_clips_that_look_alike(tmp_path, monkeypatch, naps):
    offered, original = [], selection.drop_alike

    def noted(candidates, count, distance):
        kept = original(candidates, count, distance)
        offered.append((len(candidates), count, len(kept)))
        return kept

    monkeypatch.setattr(selection, "drop_alike", noted)
    with Run(tmp_path / "oracle") as run:
        run.finish()
    assert not offered
    with People(tmp_path / "people") as run:
        run.live(run.answer_one)
        asked = [run.feedback.ledger(index).asked for index in range(8)]
    pool = CONFIG.query.pool
    assert offered == [(pool * n, pool * n // 2, pool * n // 2) for n in asked if n]


def test_people_alone_see_pictures_of_all_that_they_are_asked_about(tmp_path, naps, world):
    with Run(tmp_path / "oracle", world) as run:
        run.finish()
        assert run.agent.shown == []
        assert not any(map(run.feedback.picture, run.feedback.segments()))
    with People(tmp_path / "people", world) as run:
        run.live(run.answer_one)
        for index, shown in enumerate(run.agent.shown):
            asked = [q for q in run.feedback._queries("") if q.id.round == index]
            assert {s.id for q in asked for s in q.segments} == set(shown)
            assert len(set(shown)) == len(shown), "drawn twice"
        assert len(run.agent.shown) == run.config.rounds + 1 and run.agent.shown[-1] == []
        for name in run.feedback.segments():
            assert run.feedback.picture(name) == picture_of(name)


def test_a_redone_round_draws_nothing_that_is_in_the_store(tmp_path, naps):
    def kill(now):
        run.answer_one(now)
        if now.state == "done" and now.index == 2:
            raise Killed

    with People(tmp_path / "store") as run, pytest.raises(Killed):
        run.live(kill)
    with People(tmp_path / "store") as again:
        again.live(again.answer_one)
        assert len(again.agent.shown) == again.config.rounds + 1 - 3
        assert all(map(again.feedback.picture, again.feedback.segments()))


def test_the_true_reward_waits_for_nobody(tmp_path):
    with People(tmp_path / "store", reward_model=TrueReward(), labels=0) as run:
        run.live(lambda now: None)
        assert run.feedback.counts()[:4] == (0, 0, 0, 0)
    assert "waiting" not in {now.state for now in run.yielded}


def test_a_run_taught_by_people_can_be_replayed_from_its_ledger(tmp_path, naps):
    """Edits, skips and expiry too: each round saw what its ledger says."""

    def act(now):
        run.answer_one(now)
        if now.state == "done" and now.index in (3, 5):
            for answer in run.feedback.answers()[:4]:
                run.say(run.feedback.query(answer.query), ("retraction", "tie")[now.index == 5])
            run.say(run.feedback.pending()[0], "skip")

    with People(tmp_path / "store") as run:
        expected = run.live(act)
        run.feedback.copy(tmp_path / "copy")
    with People(tmp_path / "copy") as again:
        assert again.live(lambda now: None) == expected
    assert "waiting" not in {now.state for now in again.yielded}


def test_answers_from_elsewhere_are_learned_from_but_buy_nothing(tmp_path, naps):
    with Run(tmp_path / "old", labels=16) as run:
        run.finish()
        old = [(run.feedback.query(answer.query), answer) for answer in run.feedback.answers()]
    queries = [
        Query(q.id, tuple(dataclasses.replace(s, id=f"old {s.id}") for s in q.segments))
        for q, _ in old
    ]
    answers = [dataclasses.replace(a, query=QueryId(-1, i)) for i, (_, a) in enumerate(old)]
    with People(tmp_path / "new") as run:
        run.feedback.record(queries, answers, "old ")
        metrics = run.live(run.answer_one)
    assert [line["answered"] for line in metrics[:3]] == [0, 15, 15]
    with Run(tmp_path / "taught", labels=0) as run:  # and the teacher is asked nothing
        run.teacher.answer = lambda queries, truth: [FakeTeacher._check(None, q) for q in queries]
        run.feedback.record(queries, answers, "old ")
        fits = run.finish()
        assert run.feedback.counts()[:4] == (0, 0, 0, 0)
    assert all("train_loss" in line for line in fits[1:])


# --- kills and resumption ---------------------------------------------------------------------


def test_a_run_is_a_function_of_its_seed(tmp_path, world):
    results = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        with Run(tmp_path / name, world, seed=seed) as run:
            results.append((run.finish(), contents(tmp_path / name)))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_resuming_after_any_round_gives_the_same_run(tmp_path, world):
    saves = []
    with Run(tmp_path / "whole", world) as run:
        expected = run.finish(saves)
    for stop in range(CONFIG.rounds + 1):
        path = tmp_path / f"stopped after {stop}"
        with Run(path, world) as run:
            rounds = run.done()
            metrics = [next(rounds).metrics for _ in range(stop + 1)]
            saved = run.save()
        assert saved == saves[stop]
        with Run(path, world, saved) as run:
            metrics += run.finish()
            assert run.save() == saves[-1]
        assert metrics == expected
        assert contents(path) == contents(tmp_path / "whole")


ANSWERING = ["before one answer", "after one", "after four"]
PLACES = ["in training", "before asking", "after asking", *ANSWERING]


def arm(run, point):
    """Let the process die at a place of the round that comes next."""

    def die(*arguments):
        raise Killed

    if point == "in training":
        run.agent.train = run.agent.explore = die
    elif point == "before asking":
        run.feedback.ask = die
    elif point == "after asking":
        ask = run.feedback.ask
        run.feedback.ask = lambda *arguments: die(ask(*arguments))
    else:
        run.teacher.dies_after = {"before one answer": 0, "after one": 1, "after four": 4}[point]


@pytest.mark.parametrize(
    ("world", "place"), [(WordWorld, "after four"), *((NumberWorld, place) for place in PLACES)]
)
def test_a_round_that_was_killed_is_redone_to_the_bit(tmp_path, world, place):
    saves = []
    with Run(tmp_path / "whole", world) as run:
        expected = run.finish(saves)
    first = 1 if place in ANSWERING else 0  # round 0 has no answers before it
    for killed in range(first, CONFIG.rounds + 1):
        path = tmp_path / f"killed in {killed}"
        metrics, saved = [], None
        with Run(path, world) as run:
            rounds = run.done()
            for _ in range(killed):
                metrics.append(next(rounds).metrics)
                saved = run.save()
            arm(run, place)
            with pytest.raises(Killed):
                next(rounds)
        with Run(path, world, saved) as run:
            metrics += run.finish()
            assert run.save() == saves[-1]
        assert metrics == expected
        assert contents(path) == contents(tmp_path / "whole")


def cannot_tell(query):
    return query.id.index % 3 == 2


def killed_in_round_two(path):
    """Return the checkpoint after round 1 of a run that was killed when round 2 had asked."""
    with Run(path) as run:
        run.teacher.skips = cannot_tell
        rounds = run.done()
        next(rounds), next(rounds)
        saved = run.save()
        arm(run, "after asking")
        with pytest.raises(Killed):
            next(rounds)
    return saved


def test_a_redone_round_sees_the_answers_that_it_saw_before(tmp_path):
    with Run(tmp_path / "whole") as run:
        run.teacher.skips = cannot_tell
        expected = run.finish()
    path = tmp_path / "killed"
    saved = killed_in_round_two(path)
    with closing(FeedbackStore(path)) as person:  # who can tell, and changes their mind
        through, _ = person.ledger(2)
        early = [answer for answer in person.answers() if answer.query.round < 2]
        for answer in early:
            value = {"left": 1 - answer.value.get("left", 0)}
            person.answer(dataclasses.replace(answer, kind="preference", value=value, uuid=""))
        for query in person.pending()[:2]:
            person.answer(Answer(query.id, "preference", {"left": 1.0}, "person"))
        assert through < person.last_answer() - len(early)
    with Run(path, saved=saved) as run:
        run.teacher.skips = cannot_tell
        redone = run.finish()
        assert run.feedback.ledger(2)[0] == through
    assert redone[0] == expected[2]
    assert redone[1] != expected[3], "the next round learns of the change"
    assert redone[1]["answered"] > expected[3]["answered"]


def test_a_redone_round_asks_as_many_as_it_asked_before(tmp_path):
    """More labels were granted in between: they are due from the next round on."""
    saved = killed_in_round_two(tmp_path / "store")
    with Run(tmp_path / "store", saved=saved, labels=CONFIG.labels + 12) as run:
        before = run.feedback.ledger(2)
        run.finish()
        assert run.feedback.ledger(2) == before
        assert run.feedback.counts().answered == CONFIG.labels + 12


def test_a_redone_round_that_does_not_repeat_itself_keeps_its_queries(tmp_path):
    """An environment may not be deterministic: what was asked, and perhaps answered, stands."""
    saved = killed_in_round_two(tmp_path / "store")
    with closing(FeedbackStore(tmp_path / "store")) as store:
        asked = [q for q in (*store.pending(), *map(store.query, answered(store))) if q.id[0] == 2]
    before = {query.id: [segment.id for segment in query.segments] for query in asked}
    with Run(tmp_path / "store", saved=saved) as run:
        run.agent.generator = np.random.default_rng(99)
        run.finish()
        for name, segments in before.items():
            assert [segment.id for segment in run.feedback.query(name).segments] == segments
        assert run.feedback.ledger(2).asked == len(before)


def answered(store):
    return [answer.query for answer in store.answers()]


def test_the_sample_that_calibrates_is_kept_small():
    long = [make_trajectory(50_000), make_trajectory(40_000)]
    sample = subsample(long, 8192)
    assert 8192 <= sum(map(len, sample)) <= 2 * 8192
    assert np.unique(np.diff(sample[1].observations[:, 0])).tolist() == [10.0]
    assert all(not trajectory.extras for trajectory in sample)
    short = [make_trajectory(30)]
    assert len(subsample(short, 8192)[0]) == 30
