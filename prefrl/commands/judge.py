"""`prefrl judge`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import live_line, say
from prefrl.config.fields import Count, Seed
from prefrl.config.learning import JUDGE, JudgeConfig
from prefrl.errors import UserError


@dataclass(frozen=True)
class MeasureJudge:
    """RUN|FILE --teacher judge:…: measure a language model that judges, before it may teach."""

    source: Annotated[Positional[Path], arg(metavar="RUN|FILE")]
    """With answers of people or an oracle: a run, or a file of pairs or rankings of texts."""
    teacher: str = ""
    """judge:FOLDER, judge:http://127.0.0.1:PORT/v1#MODEL of a server, or judge:MODULE:OBJECT; that
    of the run by default."""
    pairs: Count = 200
    """Of which it is asked at most."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    seed: Seed = 0
    """Of the choice of pairs and of principles."""
    json: bool = False
    """Print one JSON object."""


def measure_judge(chosen: MeasureJudge) -> None:
    """Print how good a judge is."""
    from prefrl.reports.judge import in_words, measure
    from prefrl.runs.judges import model_teacher
    from prefrl.storage.folder import RunFolder
    from prefrl.teachers.judge import Judge

    teacher, config = chosen.teacher, chosen.judge
    if not teacher and RunFolder(chosen.source).holds_run:
        experiment = RunFolder.open(chosen.source).experiment()
        teacher = experiment.teacher if experiment.teacher.startswith(JUDGE) else ""
        config = experiment.judge if config == JudgeConfig() else config
    if not teacher.startswith(JUDGE):
        given = f"--teacher is {teacher!r}" if teacher else "no judge is named"
        raise UserError(
            f"{given}; expected --teacher judge:FOLDER, or judge:http://127.0.0.1:PORT/v1#MODEL of "
            "a server"
        )
    with live_line(beside=True):
        judge = model_teacher(teacher, config, chosen.seed)
        assert isinstance(judge, Judge)
        report = measure(judge, chosen.source, chosen.pairs, chosen.seed)
    say(*([json.dumps(report)] if chosen.json else in_words(report)))
