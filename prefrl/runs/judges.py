"""Whoever judges two policies, or answers in a run: by its name, or a learned reward by its folder.

A language model is named judge:FOLDER, judge:http://HOST:PORT/v1#MODEL, or judge:MODULE:OBJECT for
a `contracts.Speaker` of one's own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from prefrl.answers import to_comparisons
from prefrl.config.experiment import Experiment, named_by_aspect
from prefrl.config.learning import JUDGE, REVISER, JudgeConfig, is_model, is_reward
from prefrl.contracts import Teacher
from prefrl.environments.modules import load_object
from prefrl.errors import UserError
from prefrl.learning.statistics import in_words as interval
from prefrl.pace import Pace
from prefrl.runs.load import load_reward
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import reading
from prefrl.storage.fitted import FittedFolder
from prefrl.storage.folder import RunFolder
from prefrl.storage.import_export import import_file
from prefrl.storage.texts.files import is_data
from prefrl.teachers.constitution import Reviser
from prefrl.teachers.endpoint import Endpoint
from prefrl.teachers.gate import Standing, Verdict, standing
from prefrl.teachers.judge import Judge, refused
from prefrl.teachers.pairs import judge_named
from prefrl.teachers.reward import RewardTeacher
from prefrl.types import Answer, Query, QueryId

KNOWN_PAIRS = 200  # by which a judge is measured before it may teach


def judge(name: str, seed: int, is_text: bool, config: JudgeConfig | None = None) -> Teacher:
    """Return a judge in this process.

    Args:
        name: one of `TEACHERS`, MODULE:OBJECT, a folder of `prefrl fit` or of a run, whose
            reward judges, or a language model.
        seed: of an oracle's faults.
        is_text: whether texts are to be judged.
        config: how a language model is asked.

    Raises:
        UserError: there is no such judge, or it judges other clips.
    """
    if name.startswith(REVISER):
        raise UserError(f"the teacher {name} revises and compares nothing; give one that judges")
    if is_model(name):
        return model_teacher(name, config or JudgeConfig(), seed)
    if not is_reward(name):
        return judge_named(name, seed)
    path = Path(name).expanduser()
    if (FittedFolder(path).is_one or RunFolder.open(path).card().is_text) != is_text:
        reads, shown = ("numbers", "texts") if is_text else ("texts", "numbers")
        raise UserError(
            f"--teacher is {name!r}, whose reward is of {reads}, but what is to be judged is "
            f"{shown}; give a reward that was learned from {shown}"
        )
    return RewardTeacher(load_reward(path), name)


def model_teacher(
    name: str, config: JudgeConfig, seed: int, before: Sequence[Answer] = (), waits: bool = False
) -> Judge | Reviser:
    """Return a language model that answers.

    Args:
        name: "judge:…", or "revise:…", behind which a function may stand, too.
        config: how it is asked.
        seed: of the choice of principles.
        before: what has been answered already.
        waits: whether queries are left pending while it does not answer.

    Raises:
        UserError: there is no such model.
    """
    config = with_principles(config)
    if name.startswith(REVISER):
        asked = speaker(name.removeprefix(REVISER), config, "reviser")
        return Reviser(asked, config, seed, name, waits)
    asked = speaker(name.removeprefix(JUDGE), config)
    if config.ask == "likelihood" and isinstance(asked, Endpoint):
        raise UserError(
            f"--judge.ask is likelihood, which {asked.name.partition('#')[0]} does not tell of a "
            "given text; use pair or score, or a model in a folder"
        )
    return Judge(asked, config, seed, name, before, waits)


def speaker(what: str, config: JudgeConfig, role: str = "judge") -> Any:
    """Return the language model that a word names: an address, a folder, or MODULE:OBJECT.

    Args:
        what: the word.
        config: how a server is asked.
        role: "judge", or "reviser", which may be a function.
    """
    if what.startswith(("http://", "https://")):
        return Endpoint(what, config.timeout, config.samples)
    if ":" in what and not Path(what).expanduser().exists():
        found: Any = load_object(what, role)
        speaks = hasattr(found, "choose") and hasattr(found, "write")
        if not speaks and not (role == "reviser" and callable(found)):
            function = "a function of a prompt, a reply and a principle, or "
            raise UserError(
                f"the {role} {what!r} is {found!r:.80}; expected "
                f"{function if role == 'reviser' else ''}an object with choose and write, as "
                "prefrl.contracts.Speaker says"
            )
        return found
    if not what:
        word = REVISER if role == "reviser" else JUDGE
        raise UserError(
            f"the {role} names no model; expected {word}FOLDER or "
            f"{word}http://127.0.0.1:PORT/v1#MODEL"
        )
    try:
        local = importlib.import_module("prefrl.text.speaker")
    except ModuleNotFoundError as error:
        raise UserError(
            f"the {role} {what} needs {error.name}: pip install 'prefrl[text]'"
        ) from None
    return local.local_speaker(what)


def named_fully(experiment: Experiment) -> Experiment:
    """Return the experiment with its judge's folder and principles written out, if it has one.

    A run is then the same wherever it goes on, and whatever becomes of the file.
    """
    if experiment.is_graded:
        config, reward = with_principles(experiment.judge), _in_full(experiment.reward)
        return dataclasses.replace(experiment, reward=reward, judge=config)
    teachers = experiment.teachers
    if not any(map(is_model, teachers.values())):
        return experiment
    full = {a: _in_full(name) if is_model(name) else name for a, name in teachers.items()}
    teacher = named_by_aspect(full)
    known = experiment.judge.known
    config = dataclasses.replace(
        with_principles(experiment.judge), known=str(Path(known).absolute()) if known else ""
    )
    return dataclasses.replace(experiment, teacher=teacher, judge=config)


def _in_full(name: str) -> str:
    """Return the name of a judge, its folder written out."""
    prefix, _, what = name.partition(":")
    folder = Path(what).expanduser()
    return f"{prefix}:{folder.absolute()}" if what and folder.is_dir() else name


def with_principles(config: JudgeConfig) -> JudgeConfig:
    """Return the configuration with the principles of its file, if it names one.

    Raises:
        UserError: there is no such file, or it holds none.
    """
    if len(config.principles) != 1:
        return config
    [name] = config.principles
    path = Path(name).expanduser()
    if not path.is_file():
        if " " in name.strip():
            return config
        raise UserError(
            f"--judge.principles is {name!r}, which is no file here; expected a file of "
            "principles, one a line, or a sentence"
        )
    with reading(path) as lines:
        found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise UserError(f"{path} holds no principle; expected one a line")
    return dataclasses.replace(config, principles=found)


@contextmanager
def _answers(source: Path) -> Iterator[FeedbackStore]:
    """Open the answers of a run, or read those of a file."""
    if not is_data(source):
        store = FeedbackStore(RunFolder.open(source).feedback, read_only=True)
    else:
        store = FeedbackStore(":memory:")
    with closing(store):
        if is_data(source):
            import_file(store, source)
        yield store


def known_pairs(source: Path, most: int, seed: int) -> tuple[list[Query], list[float]]:
    """Return pairs of which others than language models said which is better, and P(left is).

    Which pairs, and which of the two is left, are drawn by a hash.

    Args:
        source: a run, or a file.
        most: how many at most.
        seed: of the draw.

    Raises:
        UserError: there are none.
    """
    queries, lefts = [], []
    with _answers(source) as store:
        for answer in store.answers():
            if is_model(answer.teacher):
                continue
            query = store.query(answer.query)
            for one in to_comparisons(query, answer).comparisons:
                if one.preference == 0.5:
                    continue
                number = QueryId(0, len(queries))
                turned = one.swapped() if _drawn(seed, number.index) % 2 else one
                queries.append(Query(number, (turned.left, turned.right), question=query.question))
                lefts.append(turned.preference)
    if not queries:
        raise NothingKnown(
            f"{source} holds no answer of others that prefers one of two replies, so it does not "
            "show whether a judge can judge; give a run that people or an oracle taught, or a file "
            "of pairs"
        )
    drawn = sorted(range(len(queries)), key=lambda index: _drawn(seed, index))[:most]
    return [queries[index] for index in drawn], [lefts[index] for index in drawn]


def _drawn(seed: int, index: int) -> int:
    digest = hashlib.blake2b(f"known {seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def verdicts(teacher: Judge, queries: Sequence[Query]) -> Iterator[Verdict]:
    """Yield what a judge says of pairs, telling how far it is."""
    pace, each = Pace("judging", len(queries)), teacher.speaker.at_once
    for begin in range(0, len(queries), each):
        some = queries[begin : begin + each]
        yield from teacher.verdicts(some)
        pace.step(len(some))


def admitted(
    teacher: Judge | Reviser, experiment: Experiment, is_text: bool, answers_from: Path | None
) -> list[str]:
    """Measure a judge before it may teach, if there are known pairs; return what to say of it.

    Args:
        teacher: the judge.
        experiment: in which it shall answer.
        is_text: whether it is about texts.
        answers_from: a run or a file whose answers are learned from, too.

    Raises:
        UserError: it judges other clips, or cannot judge, and that is not forced.
    """
    if not is_text:
        raise UserError(
            f"the teacher {experiment.teacher} reads texts, but {experiment.env} is an "
            "environment of numbers; use another teacher: oracle, human or MODULE:OBJECT"
        )
    if isinstance(teacher, Reviser):
        return []
    if experiment.judge.known:
        return [in_words(admit(teacher, Path(experiment.judge.known), experiment.seed))]
    try:
        if answers_from is not None:
            return [in_words(admit(teacher, answers_from, experiment.seed))]
    except NothingKnown:
        pass
    return []


def in_words(measured: Standing) -> str:
    """Return how a judge stands in a line."""
    same = f"names the same reply in both orders in {interval(measured.consistency)} of them, "
    return (
        f"the judge is right in {interval(measured.accuracy)} of {measured.pairs} known pairs, "
        + (same if measured.consistency else "")
        + f"and cannot be read in {measured.unread}"
    )


class NothingKnown(UserError):
    """No answer of others is there to measure a judge by."""


def admit(teacher: Judge, source: Path, seed: int) -> Standing:
    """Measure a judge by known pairs before it may teach.

    Raises:
        UserError: it cannot judge, and that is not forced.
    """
    queries, lefts = known_pairs(source, KNOWN_PAIRS, seed)
    measured = standing([*verdicts(teacher, queries)], lefts)
    if measured.refusal and not teacher.config.force:
        raise refused(teacher.name, measured.refusal)
    return measured
