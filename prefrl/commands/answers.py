"""`prefrl export`, `import`: answers as files."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from prefrl.commands.console import RunOrAddress, installed, say, shown
from prefrl.errors import UserError

if TYPE_CHECKING:
    from prefrl.storage.feedback import FeedbackStore


@dataclass(frozen=True)
class Export:
    """RUN: print the feedback as JSON lines, one an answer, or write the policy into a folder."""

    run: RunOrAddress
    """The run folder, or postgresql://HOST/DATABASE#NAME."""
    model: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder to make instead, for the policy of a language model: weights, tokenizer, generation
    config and a model card, which plain transformers opens."""
    csv: bool = False
    """Print CSV without clips, for spreadsheets; `prefrl import` takes it back into this run."""


def export(chosen: Export) -> None:
    """Print a run's answers, or write its policy."""
    if chosen.model is not None and chosen.csv:
        raise UserError("--csv is for answers, --model for the policy; leave one out")
    if chosen.model is not None:
        _export_policy(chosen.run, chosen.model)
        return
    from prefrl.storage.answers_csv import answer_rows, as_csv
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.import_export import export_answers
    from prefrl.storage.shared import opened

    with (
        opened(chosen.run) as folder,
        closing(FeedbackStore(folder.feedback, read_only=True)) as store,
    ):
        env = folder.experiment().env
        if chosen.csv:
            say(*as_csv(answer_rows(store, env)))
            return
        for line in export_answers(store, env):
            print(json.dumps(line))


def _export_policy(run: str, folder: Path) -> None:
    from prefrl.runs.load import load_policy
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.files import new_folder
    from prefrl.storage.folder import RunFolder

    source = RunFolder.open(run)
    if not source.card().is_text:
        raise UserError(
            f"{run} is a run of {source.experiment().env}, which does not speak text; its policy "
            "is loaded by prefrl.load_policy(path)"
        )
    with installed("text"):
        from prefrl.text.export import export_policy
    with new_folder(folder) as partial:
        policy = load_policy(run)
        with closing(FeedbackStore(source.feedback, read_only=True)) as store:
            counts = store.counts()
        export_policy(source, policy, counts, partial)
    say(f"wrote the policy into {shown(folder)}; transformers opens it, and so does --text.model")


@dataclass(frozen=True)
class Import:
    """RUN FILE: add answers, pairs of texts or demonstrations, one a line, to a run's feedback."""

    run: RunOrAddress
    """The run folder, or postgresql://HOST/DATABASE#NAME."""
    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """JSON, CSV or parquet: of `prefrl export`, {"prompt", "chosen", "rejected"} and so on;
    prefrl/text/README.md lists the forms. CSV of `prefrl export --csv` goes back into its run."""
    demonstrations: bool = False
    """The rows are {"prompt", "completion"} or {"segment"}: each beats a clip of the run."""
    aspect: Annotated[str, arg(metavar="NAME")] = ""
    """What rows are about that do not say it, where the run asks about several aspects."""


def import_file(chosen: Import) -> None:
    """Import a file into a run."""
    from prefrl.storage import import_export as exchange
    from prefrl.storage.answers_csv import is_answers
    from prefrl.storage.feedback import FeedbackStore
    from prefrl.storage.shared import opened

    with opened(chosen.run) as folder, closing(FeedbackStore(folder.feedback)) as store:
        experiment, card = folder.experiment(), folder.card()
        table = chosen.file.suffix.lower() == ".csv" and not chosen.demonstrations
        if table and (not card.is_text or is_answers(chosen.file)):
            _import_table(store, chosen.file)
            return
        chat = True if card.is_text and experiment.text.chat else None
        done = exchange.import_file(
            store, chosen.file, chosen.demonstrations, card.spaces, chat, tuple(card.aspects),
            chosen.aspect,
        )  # fmt: skip
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


def _import_table(store: "FeedbackStore", file: Path) -> None:
    from prefrl.storage.answers_csv import import_csv

    done = import_csv(store, file)
    say(f"imported {done.answers} answers to {done.queries} of the run's own queries")
    if done.known:
        say(f"note: answers left out, as the run holds them already: {done.known}")
