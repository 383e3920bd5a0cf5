"""Answers as files: out of a run and into one."""

import json
from dataclasses import dataclass
from pathlib import Path

from prefrl.commands.console import parse


def export(words: list[str]) -> None:
    """RUN: print the feedback as JSON lines, one an answer."""
    import tyro

    @dataclass(frozen=True)
    class Export:
        run: tyro.conf.Positional[Path]
        """The run folder."""

    chosen = parse(Export, words, "prefrl export")

    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.folder import RunFolder
    from prefrl.storage.import_export import export_answers

    for line in export_answers(FeedbackStore(RunFolder.open(chosen.run).feedback)):
        print(json.dumps(line))


def import_file(words: list[str]) -> None:
    """RUN FILE: add answers, pairs of texts or demonstrations, one a line, to a run's feedback."""
    import tyro

    @dataclass(frozen=True)
    class Import:
        run: tyro.conf.Positional[Path]
        """The run folder."""
        file: tyro.conf.Positional[Path]
        """JSON lines: of `prefrl export`, or {"prompt", "chosen", "rejected"}."""
        demonstrations: bool = False
        """The lines are {"prompt", "response"} or {"segment"}: each beats a clip of the run."""

    chosen = parse(Import, words, "prefrl import")

    from prefrl.storage import import_export as exchange
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.folder import RunFolder

    folder = RunFolder.open(chosen.run)
    store = FeedbackStore(folder.feedback)
    done = exchange.import_file(store, chosen.file, chosen.demonstrations, folder.card().spaces)
    print(
        f"imported {done.answers} answers to {done.queries} queries; the next round that begins "
        "learns from them"
    )
