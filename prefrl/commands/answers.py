"""`prefrl export`, `import`: answers as files."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import Run, say


@dataclass(frozen=True)
class Export:
    """RUN: print the feedback as JSON lines, one an answer."""

    run: Run
    """The run folder."""


def export(chosen: Export) -> None:
    """Print a run's answers."""
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.folder import RunFolder
    from prefrl.storage.import_export import export_answers

    folder = RunFolder.open(chosen.run)
    with closing(FeedbackStore(folder.feedback, read_only=True)) as store:
        for line in export_answers(store, folder.experiment().env):
            print(json.dumps(line))


@dataclass(frozen=True)
class Import:
    """RUN FILE: add answers, pairs of texts or demonstrations, one a line, to a run's feedback."""

    run: Run
    """The run folder."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """JSON, CSV or parquet: of `prefrl export`, {"prompt", "chosen", "rejected"} and so on;
    prefrl/text/README.md lists the forms."""
    demonstrations: bool = False
    """The rows are {"prompt", "completion"} or {"segment"}: each beats a clip of the run."""


def import_file(chosen: Import) -> None:
    """Import a file into a run."""
    from prefrl.storage import import_export as exchange
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.folder import RunFolder

    folder = RunFolder.open(chosen.run)
    with closing(FeedbackStore(folder.feedback)) as store:
        experiment, card = folder.experiment(), folder.card()
        chat = True if card.is_text and experiment.text.chat else None
        done = exchange.import_file(store, chosen.file, chosen.demonstrations, card.spaces, chat)
    say(
        f"imported {done.answers} answers to {done.queries} queries; the next round that begins "
        "learns from them"
    )
    for note in done.notes:
        say(note)
    if done.known:
        say(f"note: answers left out, as the run holds them already: {done.known}")
    for note in exchange.about_another(done.environments, experiment.env):
        say(f"note: {note}")
    if done.left_out:
        say(f"note: pairs left out, as both texts are the same: {done.left_out}")
