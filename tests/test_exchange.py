"""Feedback as JSON lines: nothing is lost on the way out and in, and nothing wrong comes in."""

import dataclasses
import json
import math
from contextlib import closing

import numpy as np
import pytest
from fakes import make_segment
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import few, json_values, many, names, orders, same_array

from prefrl.cli import main
from prefrl.config.experiment import Experiment
from prefrl.errors import UserError
from prefrl.storage import history
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.folder import RunFolder
from prefrl.storage.import_export import (
    copy_answers,
    export_answers,
    import_answers,
    import_demonstrations,
    import_file,
)
from prefrl.types import (
    Answer,
    EnvironmentCard,
    Picture,
    Query,
    QueryId,
    Segment,
    SpaceSpec,
    text_array,
)


@pytest.fixture
def store(tmp_path):
    with closing(FeedbackStore(tmp_path / "feedback.sqlite")) as store:
        yield store


def fresh():
    return closing(FeedbackStore(":memory:"))


def lines_of(store):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = [json.dumps(entry) for entry in export_answers(store, "Env-v0")]
    for line in lines:
        json.loads(line, parse_constant=refuse)
    return lines


# --- out and in again -------------------------------------------------------------------------

dtypes = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1", ">f4"])
finite = {"allow_infinity": False, "allow_nan": False}
numbers = {"allow_infinity": False}  # JSON knows neither; NaN comes back, infinity does not
words = st.text(max_size=6)


@st.composite
def step_arrays(draw, steps, shape, dtype, floats=finite):
    dtype = np.dtype(dtype)
    elements = hnp.from_dtype(dtype, **(floats if dtype.kind == "f" else {}))
    return draw(hnp.arrays(dtype, (steps, *shape), elements=elements))


@st.composite
def rounds_of_queries(draw):
    """Draw two rounds of queries about clips of one kind, as one run makes them."""
    text = draw(st.booleans())
    shapes = [draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)) for _ in range(3)]
    kinds = [draw(dtypes) for _ in range(3)]

    def segment(name):
        steps = draw(st.integers(1, 4))
        if text:
            said = st.lists(words, min_size=steps, max_size=steps)
            return Segment(
                name, text_array(draw(said)), text_array(draw(said)),
                {"ids": draw(step_arrays(steps, (), "<i8"))}, "task", draw(names),
            )  # fmt: skip
        *arrays, poses = zip(shapes, kinds, (finite, finite, numbers), strict=True)
        observations, actions = (draw(step_arrays(steps, *how)) for how in arrays)
        extras = {"qpos": draw(step_arrays(steps, *poses))}
        return Segment(name, observations, actions, extras, "task", draw(names))

    return text, [
        [
            Query(
                QueryId(r, i),
                tuple(segment(f"{r} {i} {k}") for k in range(draw(st.integers(2, 4)))),
                draw(st.sampled_from(["preference", "ranking"])),
                draw(names),
            )
            for i in range(draw(st.integers(1, 3)))
        ]
        for r in range(2)
    ]


strengths = st.sampled_from([None, "negligibly", "slightly", "better", "significantly"])


@st.composite
def an_answer(draw, query, text):
    """Draw any answer that fits the query."""
    count = len(query.segments)
    values = {
        "tie": st.just({}),
        "skip": st.just({}),
        "ranking": orders(count).map(lambda order: {"order": order}),
        "ratings": st.lists(st.floats(-1, 5), min_size=count, max_size=count).map(
            lambda ratings: {"ratings": ratings, "low": -1, "high": 5}
        ),
    }
    if count == 2:
        values["preference"] = st.tuples(st.floats(0, 1), strengths).map(
            lambda said: {"left": said[0]} | ({"strength": said[1]} if said[1] else {})
        )
    if text:
        values["rewrite"] = st.tuples(
            st.integers(0, count - 1), words, st.none() | orders(count)
        ).map(
            lambda said: (
                {"segment": said[0], "text": said[1]} | ({"order": said[2]} if said[2] else {})
            )
        )
    kind = draw(st.sampled_from(sorted(values)))
    times = draw(st.floats(0, 2e9)), draw(st.floats(0, 2e9))
    return Answer(
        query.id, kind, draw(values[kind]), draw(st.sampled_from(["anna", "ben"])), *times
    )


def fill(data, store):
    """Ask and answer at random: changes of mind, second opinions, answers taken back."""
    text, rounds = data.draw(rounds_of_queries())
    for index, queries in enumerate(rounds):
        store.ask(index, queries, {}, store.last_answer())
    everything = [query for queries in rounds for query in queries]
    for _ in range(data.draw(st.integers(1, 8))):
        query = data.draw(st.sampled_from(everything))
        answer = data.draw(an_answer(query, text))
        if data.draw(st.integers(0, 5)) == 0:
            answer = dataclasses.replace(answer, kind="retraction", value={})
        store.answer(answer)


def test_pictures_stay_behind(store):
    segments = (make_segment("a"), make_segment("b"))
    query, picture = Query(QueryId(0, 0), segments), Picture(4, 3, 2, 1, b"a picture")
    with fresh() as plain, fresh() as one, fresh() as other:
        for kept, pictures in ((store, {"a": picture}), (plain, {})):
            kept.ask(0, [query], {}, 0, pictures)
            kept.answer(Answer(query.id, "preference", {"left": 1.0}, "anna", uuid="one"))
        assert store.picture("a") == picture
        assert lines_of(store) == lines_of(plain)
        import_answers(one, lines_of(store), "file")
        copy_answers(store, other, "copy")
        for into in (one, other):
            assert [into.picture(name) for name in into.segments()] == [None, None]


def assert_same_lessons(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.preference, one.margin, one.weight) == (
            other.preference, other.margin, other.weight,
        )  # fmt: skip
        for left, right in ((one.left, other.left), (one.right, other.right)):
            assert (left.task, left.source) == (right.task, right.source)
            assert left.extras.keys() == right.extras.keys()
            pairs = [(left.observations, right.observations), (left.actions, right.actions)]
            pairs += [(left.extras[name], right.extras[name]) for name in left.extras]
            assert all(same_array(*map(plain_nan, pair)) for pair in pairs)


def plain_nan(array):
    """Return the array with every NaN the same: JSON keeps neither its sign nor its payload."""
    return np.where(np.isnan(array), np.nan, array) if array.dtype.kind == "f" else array


@many
@given(st.data())
def test_what_was_exported_comes_in_as_the_same_comparisons(data):
    with fresh() as old, fresh() as new, fresh() as copy:
        fill(data, old)
        standing = old.answers()
        lines = lines_of(old)
        assert len(lines) == len(standing)
        if not standing:
            with pytest.raises(UserError, match="holds nothing"):
                import_answers(new, lines, "old")
            return
        done = import_answers(new, lines, "old")
        assert (done.round, done.answers) == (-1, len(standing))
        assert done.queries == len({answer.query for answer in standing})
        assert copy_answers(old, copy, "old")[:4] == done[:4]
        assert new.counts()[:4] == (0, 0, 0, 0) and new.pending() == []
        ours = old.comparisons(margin_scale=2.0)
        for store in (new, copy):
            assert_same_lessons(ours, store.comparisons(margin_scale=2.0))
        said = [(a.kind, a.value, a.teacher, a.shown_at, a.answered_at) for a in standing]
        assert said == [
            (a.kind, a.value, a.teacher, a.shown_at, a.answered_at) for a in new.answers()
        ]
        for ours, theirs in zip(new.answers(), standing, strict=True):
            here, there = new.query(ours.query), old.query(theirs.query)
            assert (here.kind, here.question) == (there.kind, there.question)
        # And out again: the same but for names.
        again = [json.loads(line) for line in lines_of(new)]
        for entry, line in zip(again, map(json.loads, lines), strict=True):
            assert entry["value"] == line["value"]
            assert [s["dtypes"] for s in entry["segments"]] == [
                s["dtypes"] for s in line["segments"]
            ]


def test_export_is_json(store):
    text = Segment("text", np.array(["Grüße"]), np.array(["«hi»"]), {"ids": np.zeros((1, 2))}, "t")
    worst = Segment("numbers", np.array([np.nan, np.inf, 1.0]), np.array([True, False, True]))
    queries = [
        Query(QueryId(0, 0), (text, make_segment("plain", task="t")), question="Which?"),
        Query(QueryId(0, 1), (worst, make_segment("other"))),
    ]
    store.ask(0, queries, {}, 0)
    assert lines_of(store) == []
    preference = Answer(QueryId(0, 0), "preference", {"left": 0.75}, "anna", 12.5, 13.25)
    store.answer(preference, Answer(QueryId(0, 1), "skip", {}, "anna"))
    lines = [json.loads(line) for line in lines_of(store)]
    assert [line["index"] for line in lines] == [0, 1]
    first = lines[0]
    assert first["segments"][0] == {
        "id": "text", "task": "t", "source": "", "observations": ["Grüße"], "actions": ["«hi»"],
        "extras": {"ids": [[0, 0]]},
        "dtypes": {"observations": "text", "actions": "text", "extras": {"ids": "<f8"}},
    }  # fmt: skip
    assert first["question"] == "Which?" and first["value"] == {"left": 0.75}
    assert first["query_kind"] == "preference"
    assert (first["teacher"], first["shown_at"], first["answered_at"]) == ("anna", 12.5, 13.25)
    assert lines[1]["segments"][0]["observations"] == [None, None, 1]
    assert lines[1]["segments"][0]["actions"] == [True, False, True]


def test_what_json_cannot_say_is_not_exported(store):
    waves = Segment("waves", np.zeros(2, np.complex64), np.zeros(2))
    store.ask(0, [Query(QueryId(0, 0), (waves, make_segment("b")))], {}, 0)
    store.answer(Answer(QueryId(0, 0), "tie"))
    with pytest.raises(UserError, match="type complex64 cannot be written as JSON"):
        lines_of(store)


# --- into a run that has clips of its own -----------------------------------------------------


def clip(name, value=0.0, task=""):
    return make_segment(name, 3, task, value=float(value))


def ask(store, count=2, task="", round_index=0):
    queries = [
        Query(QueryId(round_index, i), (clip(f"{i} l", i, task), clip(f"{i} r", i + 1, task)))
        for i in range(count)
    ]
    store.ask(round_index, queries, {}, store.last_answer())
    return queries


def answered(store, count=2):
    for query in ask(store, count):
        store.answer(Answer(query.id, "preference", {"left": 0.0}, "anna"))
    return lines_of(store)


def answered_texts(store):
    clips = [Segment(name, text_array(["Hello"]), text_array([name])) for name in ("yes", "no")]
    store.ask(0, [Query(QueryId(0, 0), tuple(clips))], {}, 0)
    store.answer(Answer(QueryId(0, 0), "preference", {"left": 1.0}, "anna"))


def snapshot(store):
    tables = ["round", "segment", "array", "query", "answer"]
    return [
        store.database.connection.execute(f"SELECT * FROM {t} ORDER BY 1, 2").fetchall()
        for t in tables
    ]


def test_clips_of_another_run_with_the_same_ids_stay_apart(store):
    with fresh() as old:
        lines = answered(old)
    changed = [line.replace("[0.0, 0.0]", "[7.0, 7.0]") for line in lines]
    ask(store)
    store.answer(Answer(QueryId(0, 0), "preference", {"left": 1.0}, "ben"))
    assert import_answers(store, changed, "old")[:4] == (-1, 2, 2, 0)
    mine, theirs, other = store.comparisons()
    assert mine.left.id == "0 l" and (mine.left.observations == 0).all()
    assert theirs.left.id.startswith("old ") and theirs.left.id.endswith(": 0 l")
    assert (theirs.left.observations == 7).all()
    assert [c.query for c in (theirs, other)] == [(-1, 0), (-1, 1)]
    assert store.counts()[:4] == (2, 1, 1, 1)


def test_an_answer_counts_once_however_often_its_export_comes_in(store):
    lines = answered(store, 3)
    with pytest.raises(UserError, match=r"mine: .* holds these answers already; nothing is"):
        import_answers(store, lines, "mine")
    with fresh() as other:
        theirs = answered(other, 2)
        # One of them is in the file twice, beside three that are here.
        done = import_answers(store, [*lines, *theirs, theirs[0]], "both")
        assert (done.round, done.queries, done.answers, done.known) == (-1, 2, 2, 4)
        assert len(store.comparisons()) == 5 and not store.pending()
        # What was superseded or taken back here does not come back.
        other.answer(Answer(QueryId(0, 0), "tie", {}, "anna"))
        other.answer(Answer(QueryId(0, 1), "retraction", {}, "anna"))
        with pytest.raises(UserError, match="holds these answers already"):
            import_answers(other, theirs, "old")
        with fresh() as copy:
            copy_answers(other, copy, "other")
            with pytest.raises(UserError, match="holds these answers already"):
                import_answers(copy, lines_of(other), "other")


def test_answers_to_pairs_that_were_shown_again_go_along_and_teach_nothing(store):
    queries = ask(store, 2)
    for query in queries:
        store.answer(Answer(query.id, "preference", {"left": 0.0}, "anna"))
    store.answer(Answer(QueryId(0, 0), "preference", {"left": 0.0}, "anna", repeat=True))
    store.answer(Answer(QueryId(0, 1), "tie", {}, "anna", repeat=True))
    assert history.agreement(store, "anna") == (1, 2)
    lines = lines_of(store)
    assert [json.loads(line)["repeat"] for line in lines] == [False, False, True, True]
    with fresh() as new, fresh() as copy, fresh() as alone:
        assert import_answers(new, lines, "old")[:3] == (-1, 2, 4)
        copy_answers(store, copy, "old")
        for into in (new, copy):
            assert history.agreement(into, "anna") == (1, 2)
            assert len(into.comparisons()) == 2 and not into.pending()
        import_answers(alone, lines[2:], "repeats alone")  # nobody is asked these now
        assert not alone.pending() and not alone.comparisons()


@pytest.mark.parametrize("field", ["id", "source", "question", "teacher", "uuid"])
def test_a_name_with_a_control_character_is_a_sentence_and_nothing_comes_in(store, field):
    with fresh() as old:
        row = json.loads(answered(old, 1)[0])
    changed = row["segments"][1] if field in ("id", "source") else row
    changed[field] = "an\x00na"
    before = snapshot(store)
    with pytest.raises(UserError, match=r"control character '\\x00'.*; nothing is imported"):
        import_answers(store, [json.dumps(row)], "file")
    assert snapshot(store) == before


def test_answers_of_another_environment_come_in_with_a_note(tmp_path, capsys):
    run = RunFolder.create(tmp_path / "run", Experiment(env="mine:Mine-v0"), {})
    text = SpaceSpec(text=True)
    run.save_card(EnvironmentCard("prefrl.text:DOMAIN", 1.0, "Which?", text, text))
    with fresh() as other:
        answered_texts(other)
        for env, notes in (("Mine-v0", 0), ("their:Theirs-v0", 1)):
            path = tmp_path / f"{notes}.jsonl"
            lines = [
                dict(line, uuid=f"{env} {i}") for i, line in enumerate(export_answers(other, env))
            ]
            lines[0]["segments"][0]["source"] = env  # other clips than those before
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            main(["import", str(run.path), str(path)])
            told = [line for line in capsys.readouterr().out.splitlines() if "note" in line]
            assert len(told) == notes
    assert "about their:Theirs-v0, and the run trains in mine:Mine-v0" in told[0]


def test_the_same_file_comes_in_once_whatever_it_is_called(store, tmp_path):
    with fresh() as old:
        lines = answered(old)
        with fresh() as copy:
            copy_answers(old, copy, "old")
            with pytest.raises(UserError, match="holds these answers already"):
                import_answers(copy, lines, "lines of what was copied")
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("\n".join(lines), encoding="utf-8")
    second.write_text("\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    import_file(store, first)
    before = snapshot(store)
    for path in (first, second):
        with pytest.raises(UserError, match=rf"^{path.stem}: .* already; nothing is imported"):
            import_file(store, path)
    assert snapshot(store) == before
    with pytest.raises(UserError, match=r"half of it: .* holds these answers already"):
        import_answers(store, lines[:1], "half of it")
    assert snapshot(store) == before


def test_rows_by_hand_need_no_more_than_is_said(store):
    row = {
        "segments": [
            {"observations": [[0, 1], [2, 3]], "actions": [[True], [False]]},
            {
                "observations": [[0, 1.5], [2, 3]],
                "actions": [[True], [True]],
                "extras": {"qpos": [None, 1]},
            },
        ],
        "kind": "preference",
        "value": {"left": 0.9},
    }
    rows = [row, {**row, "value": {"left": 0.1}}]
    assert import_answers(store, map(json.dumps, rows), "mine")[:4] == (-1, 2, 2, 0)
    first, second = store.comparisons()
    assert first.left.observations.dtype == np.int64
    assert first.right.observations.dtype == np.float64
    assert np.isnan(first.right.extras["qpos"][0])
    assert first.left.actions.dtype == np.bool_
    assert first.left.id != second.left.id
    assert {answer.teacher for answer in store.answers()} == {"mine"}


def test_pairs_of_texts(store):
    rows = [
        {"prompt": "Hello", "chosen": "Hi!", "rejected": "Go away", "score": 3},
        {"prompt": "Bye", "chosen": "Bye «»", "rejected": ""},
    ]
    assert import_answers(store, map(json.dumps, rows), "hh")[:4] == (-1, 2, 2, 0)
    first, second = store.comparisons()
    assert (first.preference, first.left.task, second.left.task) == (1.0, "Hello", "Bye")
    assert first.left.observations.tolist() == ["Hello"] and first.left.actions.tolist() == ["Hi!"]
    assert first.right.actions.tolist() == ["Go away"] and second.right.actions.tolist() == [""]
    assert store.answers()[0].teacher == "hh"


def test_texts_that_differ_in_a_nul_stay_different(store):
    rows = [
        {"prompt": "a\0b", "chosen": "yes\0", "rejected": "yes"},
        {"prompt": "a\0c", "chosen": "\0\0", "rejected": "\0"},
    ]
    import_answers(store, map(json.dumps, rows), "odd")
    said = [
        (s.observations[0], s.actions[0]) for c in store.comparisons() for s in (c.left, c.right)
    ]
    assert said == [("a\0b", "yes\0"), ("a\0b", "yes"), ("a\0c", "\0\0"), ("a\0c", "\0")]
    assert len(store.segments_after("a\0b")) == 2  # SQLite's JSON functions stop at a NUL
    assert store.segments_after("a") == []
    with fresh() as other:
        import_answers(other, lines_of(store), "again")
        assert [c.left.actions.tolist() for c in other.comparisons()] == [["yes\0"], ["\0\0"]]


# --- demonstrations ---------------------------------------------------------------------------


def test_a_demonstration_is_better_than_a_clip_of_its_task(store):
    ask(store, 3)
    own = {s.id for q in store.pending() for s in q.segments}
    segments = [{"observations": [[v, v]] * 4, "actions": [[0.5]] * 4} for v in range(6)]
    lines = [json.dumps({"segment": segment}) for segment in segments]
    assert import_demonstrations(store, lines, "expert")[:4] == (-1, 6, 6, 0)
    comparisons = store.comparisons()
    assert [c.preference for c in comparisons] == [1.0] * 6
    assert [c.left.observations[0, 0] for c in comparisons] == [*range(6)]
    assert {c.right.id for c in comparisons} <= own and len({c.right.id for c in comparisons}) > 1
    assert {answer.teacher for answer in store.answers()} == {"expert"}
    # The same clips, whatever else there is: but never another demonstration.
    with fresh() as other:
        ask(other, 3)
        import_demonstrations(other, lines[::-1], "expert")
        chosen = {c.left.observations[0, 0]: c.right.id for c in other.comparisons()}
        assert chosen == {c.left.observations[0, 0]: c.right.id for c in comparisons}
    ask(store, 4, round_index=1)
    with pytest.raises(UserError, match="holds these answers already"):
        import_demonstrations(store, lines, "expert")
    more = [json.dumps({"segment": {**segment, "source": "x"}}) for segment in segments * 4]
    import_demonstrations(store, more, "second")
    assert not [c for c in store.comparisons() if "demonstration" in c.right.id]


def test_demonstrations_of_texts(store):
    pair = {"prompt": "Hello", "chosen": "Hi!", "rejected": "Go away"}
    import_answers(store, [json.dumps(pair)], "pairs")
    rows = [{"prompt": "Hello", "response": "How are you?"}]
    assert import_demonstrations(store, map(json.dumps, rows), "best")[:4] == (-2, 1, 1, 0)
    lesson = store.comparisons()[-1]
    assert lesson.left.actions.tolist() == ["How are you?"]
    assert lesson.right.actions[0] in ("Hi!", "Go away")
    before = snapshot(store)
    with pytest.raises(UserError, match=r"best, line 1: .* no clip of the task 'Bye' to compare"):
        import_demonstrations(store, ['{"prompt": "Bye", "response": "Bye"}'], "best")
    assert snapshot(store) == before


def test_a_demonstration_meets_a_reply_to_its_prompt_whatever_the_task_is_called(store):
    """The tasks of a language run are seeds; who writes a demonstration knows the prompt alone."""
    clips = tuple(
        Segment(f"clip {n}", np.array(["Hello"]), np.array([said]), task="seed 7")
        for n, said in enumerate(("Hi", "What?"))
    )
    rewards = {clip.id: np.zeros(1) for clip in clips}
    store.ask(0, [Query(QueryId(0, 0), clips)], rewards, answers_through=0)
    row = json.dumps({"prompt": "Hello", "response": "How are you?"})
    assert import_demonstrations(store, [row], "best")[:4] == (-1, 1, 1, 0)
    [lesson] = store.comparisons()
    assert (lesson.left.actions[0], lesson.left.task) == ("How are you?", "seed 7")
    assert lesson.right.id in rewards


def test_demonstrations_for_a_run_without_clips(store):
    row = {"segment": {"observations": [[1.0, 2.0]], "actions": [[0.5]]}}
    with pytest.raises(UserError, match="line 1: the run holds no clip to compare"):
        import_demonstrations(store, [json.dumps(row)], "best")


# --- what does not fit ------------------------------------------------------------------------

SEGMENT = {"id": "a", "observations": [[0.5, 1.0]], "actions": [[0.0]]}
ROW = {"segments": [SEGMENT, SEGMENT | {"id": "b"}], "kind": "tie", "value": {}}


def with_segment(**changes):
    return ROW | {"segments": [SEGMENT | {"id": "b"}, SEGMENT | changes]}


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


BAD_ROWS = [
    ("{'round': 0}", r"it is not JSON .*\"\{'round': 0\}\""),
    ('{"kind": "tie', "it is not JSON"),
    ("[" * 100_000, "it is not JSON"),
    ('{"prompt": "\\ud800"}', "it is not JSON .*surrogates"),
    ("[1, 2]", r"it is \[1, 2\]; expected an object"),
    ({"a": 1, "b": 2}, r"there are \['a', 'b'\]; expected an answer as `prefrl export` prints"),
    (without(ROW, "kind"), "there is no 'kind'; expected a text"),
    (without(ROW, "value"), "there is no 'value'; expected an object"),
    (ROW | {"segments": 3}, "'segments' is 3; expected a list"),
    (ROW | {"segments": [3, 4]}, "a clip is 3; expected an object"),
    (ROW | {"segments": [SEGMENT]}, "2 to 9 segments, not 1"),
    (ROW | {"kind": 7}, "'kind' is 7; expected a text"),
    (ROW | {"kind": "applause"}, "'applause'; expected one of preference"),
    (ROW | {"kind": "retraction"}, "takes an answer back"),
    (ROW | {"kind": "preference"}, r"P\(left is better\) = None; expected a number from 0 to 1"),
    (ROW | {"kind": "rewrite", "value": {"segment": 0, "text": "x"}}, "actions that are not text"),
    (ROW | {"teacher": 5}, "'teacher' is 5; expected a text"),
    (ROW | {"shown_at": "noon"}, "'shown_at' is 'noon'; expected a number"),
    (ROW | {"shown_at": float("nan")}, r"not JSON \(NaN is none of its numbers; expected finite"),
    (with_segment(observations=[[-math.inf, 0.0]]), r"not JSON \(-Infinity is none of its"),
    ('{"value": {"note": 1e999}, "kind": "tie"}', "not JSON .*Out of range float"),
    (with_segment(observations=[[0.5, None]]), "observations that are not finite in step 0; expe"),
    (with_segment(actions=[[None]]), "'a' has actions that are not finite in step 0; expected fin"),
    (ROW | {"answered_at": 10**400}, "'answered_at' is 1000.*; expected a number"),
    (ROW | {"round": 0.5}, "'round' is 0.5; expected a whole number"),
    (with_segment(observations=[[1, 2], [3]]), r"'observations' is .*; expected lists of numbers"),
    (with_segment(observations=[[1, "x"]]), "all alike and equally long"),
    (with_segment(observations=[[1, {}]]), "all alike and equally long"),
    (with_segment(observations=[]), "'observations' is .*; expected lists"),
    (with_segment(observations=7), "'observations' is 7; expected a list"),
    (with_segment(observations=[[1, 10**30]]), "expected numbers of type '<i8'"),
    (with_segment(observations=[[1.0, 2.0]] * 2), "steps; expected as many of all"),
    (with_segment(extras={"qpos": [1, 2]}), "'extras/qpos': 2.* steps; expected as many"),
    (with_segment(extras={"qpos": "x"}), "'qpos' is 'x'; expected a list"),
    (with_segment(dtypes={"observations": "<i8"}), "expected numbers of type '<i8'"),
    (with_segment(dtypes={"observations": "nonsense"}), "expected numbers of type 'nonsense'"),
    (with_segment(dtypes={"observations": "04"}), "expected numbers of type '04'"),
    (with_segment(dtypes={"observations": "O"}), "expected numbers of type 'O'"),
    (with_segment(observations=[[300, 0]], dtypes={"observations": "|u1"}), "of type '|u1'"),
    (with_segment(observations=[[1e300, 0]], dtypes={"observations": "<f4"}), "of type '<f4'"),
    (without(ROW, "segments") | {"segments": [SEGMENT, without(SEGMENT, "actions")]}, "no 'acti"),
    (
        with_segment(observations=[[1.0]]),
        r"'a' has observations of shape \[1\], but .* of shape \[2\]",
    ),
    (with_segment(observations=["words"]), "has observations text, but the environment's are of"),
    (
        with_segment(actions=[0.0]),
        r"has actions of shape \[\], but the environment's are of shape \[1\]",
    ),
    (with_segment(id="b", actions=[[1.0]]), "the clip 'b' differs from an earlier one of that"),
    (with_segment(id="c", task="fly"), "must come from the same task"),
    ({"prompt": "p", "rejected": "r"}, "there is no 'chosen'; expected a text"),
    ({"prompt": ["p"], "chosen": "c", "rejected": "r"}, r"the message 'p' is not .\"role\", "),
    ({"prompt": 3, "chosen": "c", "rejected": "r"}, "'prompt' is 3; expected a text"),
    ({"prompt": "p", "chosen": "c", "rejected": "r"}, r"observations text, but .* of shape \[2\]"),
]


@pytest.mark.parametrize(("row", "sentence"), BAD_ROWS, ids=[words for _, words in BAD_ROWS])
def test_a_bad_line_is_a_sentence_and_nothing_comes_in(row, sentence, store):
    ask(store)
    before = snapshot(store)
    bad = row if isinstance(row, str) else json.dumps(row)
    good = json.dumps(ROW)
    with pytest.raises(UserError, match=rf"(?s)^file, line 3: .*{sentence}") as caught:
        import_answers(store, [good, "\n", bad], "file")
    assert str(caught.value).endswith("; nothing is imported") and len(str(caught.value)) < 400
    assert snapshot(store) == before
    assert import_answers(store, [good], "file")[:4] == (-1, 1, 1, 0)


@many
@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: json_values
            for name in ["segments", "segment", "kind", "value", "prompt", "chosen", "rejected",
                         "response", "round", "teacher", "shown_at"]
        },
    ).map(lambda row: ROW | {"segment": SEGMENT} | row),
    st.dictionaries(
        st.sampled_from(["id", "observations", "actions", "extras", "dtypes", "task"]), json_values
    ),
    st.sampled_from([import_answers, import_demonstrations]),
)  # fmt: skip
def test_any_line_comes_in_or_is_refused_in_a_sentence(row, changes, read):
    if row["segments"] is ROW["segments"]:
        row["segments"] = [SEGMENT | {"id": "b"}, SEGMENT | changes]
    if row["segment"] is SEGMENT:
        row["segment"] = SEGMENT | changes
    with fresh() as store:
        ask(store)
        before = snapshot(store)
        try:
            done = read(store, [json.dumps(row)], "file")
        except UserError as error:
            assert "line 1" in str(error) and snapshot(store) == before
        else:
            assert done[:4] == (-1, 1, 1, 0)
            store.comparisons()
            lines_of(store)


BOX = {"observations": SpaceSpec((2,)), "actions": SpaceSpec((1,))}
THREE = {"actions": SpaceSpec(n=3)}
SPACES = [
    (BOX, {}, None),
    (BOX, {"observations": [[0.5, 1.0, 2.0]]}, r"observations of shape \[3\], but .* \[2\]"),
    (BOX, {"actions": [0.0]}, r"actions of shape \[\], but the environment's are of shape \[1\]"),
    (BOX, {"observations": ["words"]}, r"observations text, but .* of shape \[2\]"),
    (BOX, {"observations": [[0.5, None]]}, "observations that are not finite"),
    (BOX | {"actions": SpaceSpec(n=3)}, {"actions": [2]}, None),
    (
        BOX | {"actions": SpaceSpec(n=3)},
        {"actions": [3]},
        "other actions than the 3 here; .* 0 to 2",
    ),
    ({"observations": SpaceSpec(text=True), "actions": SpaceSpec(text=True)}, {}, "are text"),
]


@pytest.mark.parametrize(("spaces", "changes", "sentence"), SPACES)
@pytest.mark.parametrize("demonstration", [False, True])
def test_a_run_without_clips_knows_what_they_must_be_of(
    spaces, changes, sentence, demonstration, store
):
    read, segment = import_answers, SEGMENT | changes
    row = ROW | {"segments": [segment, segment | {"id": "b"}]}
    if demonstration:
        read, row = import_demonstrations, {"segment": segment}
        sentence = sentence or "no clip to compare"
    lines = [json.dumps(row)]
    if sentence is None:
        assert read(store, lines, "file", spaces)[:4] == (-1, 1, 1, 0)
        return
    with pytest.raises(UserError, match=f"file, line 1: .*{sentence}"):
        read(store, lines, "file", spaces)
    assert store.segments() == []


def test_a_run_of_texts_takes_texts(store):
    spaces = {"observations": SpaceSpec(text=True), "actions": SpaceSpec(text=True)}
    pair = {"prompt": "Hello", "chosen": "Hi!", "rejected": "Go away"}
    assert import_answers(store, [json.dumps(pair)], "pairs", spaces)[:4] == (-1, 1, 1, 0)
    with pytest.raises(UserError, match="observations text, but the environment's are of shape"):
        import_answers(store, [json.dumps(pair)], "pairs again", BOX)


@pytest.mark.parametrize("known", [{}, BOX])
def test_the_command_checks_a_file_by_what_the_run_folder_says(known, tmp_path, capsys):
    folder = RunFolder.create(tmp_path / "run", Experiment(), {})
    folder.save_card(EnvironmentCard("prefrl.control:DOMAIN", 0.1, "?", **known))
    path = tmp_path / "file.jsonl"
    wide = {"observations": [[0.5, 1.0, 2.0]]}
    path.write_text(json.dumps(ROW | {"segments": [s | wide for s in ROW["segments"]]}))
    words = ["import", str(folder.path), str(path)]
    if "actions" in known:
        with pytest.raises(SystemExit) as ended:
            main(words)
        sentence = capsys.readouterr().err
        assert (
            ended.value.code == 2
            and "file.jsonl, line 1: the clip 'a' has observations" in sentence
        )
    else:  # a run of an earlier version
        main(words)
        assert capsys.readouterr().out.startswith("imported 1 answers")


def test_lines_about_one_query_are_one_query(store):
    rows = [
        ROW | {"round": 3, "index": 5, "teacher": "anna"},
        ROW | {"round": 3, "index": 5, "teacher": "ben"},
        ROW | {"round": 3, "index": 6, "teacher": "ben"},
        ROW | {"round": 3, "index": 5, "teacher": "cem", "question": "Which is slower?"},
    ]
    assert import_answers(store, map(json.dumps, rows), "file")[:4] == (-1, 3, 4, 0)
    assert [answer.query.index for answer in store.answers()] == [0, 0, 1, 2]


def test_a_file_that_cannot_be_read_is_a_sentence(store, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*missing: No such file"):
        import_file(store, tmp_path / "missing")
    with pytest.raises(UserError, match=r"is a folder without data; expected .*nothing is"):
        import_file(store, tmp_path)
    (tmp_path / "latin").write_bytes('{"prompt": "Grüße"}'.encode("latin-1"))
    with pytest.raises(UserError, match="not text in UTF-8"):
        import_file(store, tmp_path / "latin")
    (tmp_path / "empty").write_text("\n \n")
    for demonstrations in (False, True):
        with pytest.raises(
            UserError, match=r"empty is empty; expected in each row .*; nothing is imported"
        ):
            import_file(store, tmp_path / "empty", demonstrations)


def test_demonstrations_go_by_file_too(store, tmp_path):
    ask(store)
    (tmp_path / "expert.jsonl").write_text(json.dumps({"segment": SEGMENT}) + "\n")
    assert import_file(store, tmp_path / "expert.jsonl", demonstrations=True)[:4] == (-1, 1, 1, 0)
    assert store.answers()[0].teacher == "expert"


@few
@given(st.data())
def test_a_damaged_export_comes_in_whole_or_not_at_all(data):
    with fresh() as old, fresh() as new:
        fill(data, old)
        text = "\n".join(lines_of(old))
        index = data.draw(st.integers(0, max(0, len(text) - 1)))
        damaged = text[:index] + data.draw(st.sampled_from('"[]{},0x')) + text[index + 1 :]
        before = snapshot(new)
        try:
            done = import_answers(new, damaged.split("\n"), "old")
        except UserError:
            assert snapshot(new) == before
        else:
            assert done.answers >= len(new.answers()) > 0
