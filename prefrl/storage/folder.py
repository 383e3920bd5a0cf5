"""The run folder: the only module that knows file names.

    config.json         the experiment, every field of it
    earlier.json        what the experiment was before it was extended, and until which round
    versions.json       versions of prefrl and what it stands on, and what else can change bits
    starts.jsonl        a line a start: the next round, the host, and versions as they were then
    feedback.sqlite     queries, answers, clips: the ledger
    store.json          the database that these are in instead, and the run's name there
    metrics.jsonl       a line a round; nothing in it depends on the clock
    timings.jsonl       a line a round: seconds of each part
    environment.json    seconds of a step, the question, what is observed and done
    model.mjb           the MuJoCo model that clips are drawn with
    guide.json          what whoever answers needs to know beyond the question
    practice.sqlite     clips for practice, which are of no policy of the run
    welcomed.json       who has seen the page's first card
    reference/          the language model that the run began with
    reward/             the reward that the run was given, which nothing is fitted to
    critic/             the run whose critic the oracle compares clips by (--oracle.regret)
    status.json         what the trainer is doing, for whoever answers
    evaluation.json     what the policy achieved, if the run is a cell of a sweep
    outcome.json        how such a run ended: finished, user error, not finite
    viewer.json         the viewer's key, port and hosts, so that a restarted one is found again
    links.json          who has a link of their own to the page, and a hash of its token
    checkpoints/        round-0007.pt: the agent, the reward model and the loop after round 7
    tb/                 TensorBoard events, when it is installed

Files are written whole, then renamed, so a kill leaves the old one or the new one.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from prefrl.config.as_json import UnknownField, from_json, to_json
from prefrl.config.experiment import Experiment
from prefrl.errors import UserError
from prefrl.guide import Guide, guide_from_json, guide_to_json
from prefrl.storage.address import Address
from prefrl.storage.files import renamed, whole, writing
from prefrl.storage.formats import AnotherVersion, Fields, Kind, another_version, migrated, stamped
from prefrl.storage.spaces import card_from_json, card_to_json, check_unchanged
from prefrl.types import EnvironmentCard

KEPT_CHECKPOINTS = 2

Ended = Literal["finished", "user error", "not finite"]


class RunFolder:
    """One run's files."""

    def __init__(self, path: Path | str):
        self.path = Path(path).absolute()  # an environment may change the working folder
        self.tensorboard = self.path / "tb"
        self.model = self.path / "model.mjb"
        self.reference = self.path / "reference"
        self.given_reward = self.path / "reward"
        self.grades = self.path / "grades.jsonl"
        self.teacher = self.path / "teacher"
        self.critic = self.path / "critic"
        self.links = self.path / "links.json"
        self.practice = self.path / "practice.sqlite"

    @property
    def feedback(self) -> Path | Address:
        """Where queries and answers are: a file in the folder, or a run in a database."""
        if not (self.path / "store.json").exists():
            return self.path / "feedback.sqlite"
        with self._reading("store.json") as fields:
            return Address(fields["url"], fields["run"])

    def save_store(self, address: Address) -> None:
        """Say that queries and answers are in a database."""
        self._write_fields("store.json", {"url": address.url, "run": address.run})

    @classmethod
    def create(
        cls, path: Path | str, experiment: Experiment, versions: dict[str, Any]
    ) -> RunFolder:
        """Make a new run folder.

        Raises:
            UserError: the folder exists, or it cannot be written.
        """
        run = cls.begin(path, versions)
        run.save_experiment(experiment)
        return run

    @classmethod
    def begin(
        cls, path: Path | str, versions: dict[str, Any], or_numbered: bool = False
    ) -> RunFolder:
        """Make a folder that is no run before `save_experiment`: what a kill leaves is none.

        Args:
            path: of the folder.
            versions: what makes the run.
            or_numbered: if the folder exists, make one with "-2", "-3" … after its name.

        Raises:
            UserError: the folder exists, or it cannot be written.
        """
        run = cls(path)
        number = 1
        try:
            while not _is_made(run.path, or_numbered):
                number += 1
                run = cls(f"{path}-{number}")
        except FileExistsError:
            resume = f"`prefrl resume {run.path}`"
            way_on = f"continue it with {resume}"
            if not (run.path / "config.json").exists():
                way_on = (
                    "delete it if a start that was stopped left it: it holds no config.json, so "
                    f"{resume} cannot continue it"
                )
            raise UserError(
                f"{run.path} exists already; give the run another name with --run, or {way_on}"
            ) from None
        except OSError as error:
            raise UserError(f"cannot make the run folder {run.path}: {error.strerror}") from None
        with run.removed_if_it_fails():
            with run.writing(run.path):
                (run.path / "checkpoints").mkdir()
            run._write_json("versions.json", versions)
        return run

    @contextmanager
    def removed_if_it_fails(self) -> Iterator[None]:
        """Leave no half of a new folder where something that can be mended went wrong."""
        made = self.path.stat()
        try:
            yield
        except (Exception, KeyboardInterrupt):
            with suppress(OSError):
                if os.path.samestat(made, self.path.stat()):  # else it is somebody else's by now
                    shutil.rmtree(self.path, ignore_errors=True)
            raise

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run folder.

        Raises:
            UserError: there is no run, it is damaged, or another version wrote it.
        """
        run = cls(path)
        if not (run.path / "config.json").is_file():
            raise UserError(
                f"{run.path} is not a run folder (it holds no config.json); runs are made by "
                "`prefrl train`"
            )
        run.experiment()
        return run

    @property
    def holds_run(self) -> bool:
        """Whether it holds a run or a comparison; language models have a config.json, too."""
        try:
            fields = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except ValueError:  # whichever it is, it is damaged, as whoever opens a run says
            return True
        except OSError:
            return False
        return not (isinstance(fields, dict) and "model_type" in fields)

    def save_experiment(self, experiment: Experiment, kind: Kind = "run") -> None:
        """Write the configuration and what the folder holds; one that holds it is whole."""
        self._write_fields("config.json", {"kind": kind} | to_json(experiment))

    def experiment(self) -> Experiment:
        """Read the configuration."""
        with self._reading("config.json") as fields:
            return from_json(Experiment, {k: v for k, v in fields.items() if k != "kind"})

    def kind(self) -> Kind:
        """Read whether the folder holds a run, or a comparison of two."""
        with self._reading("config.json") as fields:
            return fields["kind"]

    def extend(self, next_round: int, experiment: Experiment) -> None:
        """Write another configuration, for the rounds from `next_round` on."""
        self._save_earlier([*self.earlier(), (next_round, self.experiment())])
        self.save_experiment(experiment)

    def _save_earlier(self, earlier: list[tuple[int, Experiment]]) -> None:
        phases = [{"until": until} | to_json(phase) for until, phase in earlier]
        self._write_fields("earlier.json", {"phases": phases})

    def earlier(self) -> list[tuple[int, Experiment]]:
        """Read the configurations before the present one, and the round that each ended before."""
        if not (self.path / "earlier.json").exists():
            return []
        with self._reading("earlier.json") as fields:
            phases = fields["phases"]
            return [(int(phase.pop("until")), from_json(Experiment, phase)) for phase in phases]

    def versions(self) -> dict[str, Any]:
        """Read which versions made the run."""
        return self._read_json("versions.json")

    def append_start(self, next_round: int, versions: dict[str, Any]) -> None:
        """Append who goes on with the run: a sweep may move it between machines."""
        start = {"round": next_round, "host": platform.node(), "versions": versions}
        self._append("starts.jsonl", start)

    def starts(self) -> list[dict[str, Any]]:
        """Read `round`, `host` and `versions` of each start; [] of an older run."""
        return self._read_lines("starts.jsonl")

    def append_round(self, metrics: dict[str, Any], timings: dict[str, float]) -> None:
        """Append a round's line to `metrics.jsonl` and `timings.jsonl`."""
        self._append("metrics.jsonl", metrics)
        self._append("timings.jsonl", timings)

    def truncate_rounds(self, count: int) -> None:
        """Keep the first `count` rounds: a kill may have left more than the checkpoint.

        What comes after them is done again with the present configuration.
        """
        if earlier := self.earlier():
            self._save_earlier([(min(until, count), phase) for until, phase in earlier])
        for name in ("metrics.jsonl", "timings.jsonl"):
            path = self.path / name
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
                self._write(name, "".join(lines).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Read the rounds so far; a last line cut short by a kill is left out."""
        return self._read_lines("metrics.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """Read the seconds of the rounds so far."""
        return self._read_lines("timings.jsonl")

    def save_checkpoint(self, round_index: int, data: bytes) -> None:
        """Write the checkpoint after a round and delete all but the newest few."""
        self.keep_checkpoint(round_index, self.prepare_checkpoint(data))

    def prepare_checkpoint(self, data: bytes) -> Path:
        """Write a checkpoint, which is none before `keep_checkpoint` is given this path."""
        path = self.path / "checkpoints" / f"prepared-{secrets.token_hex(4)}"
        with self.writing(path), whole(path) as partial:
            partial.write_bytes(data)
        return path

    def keep_checkpoint(self, round_index: int, prepared: Path) -> None:
        """Let this be the newest checkpoint and delete all but a few; that is quick."""
        with self.writing(prepared):
            renamed(prepared, prepared.with_name(f"round-{round_index:04d}.pt"))
        there = self.path / "checkpoints"
        left_by_kills = [*there.glob("prepared-*"), *there.glob("*.partial")]
        for old in [*self._checkpoints()[:-KEPT_CHECKPOINTS], *left_by_kills]:
            old.unlink(missing_ok=True)

    def checkpoint(self) -> bytes | None:
        """Read the newest checkpoint, None if no round was finished."""
        paths = self._checkpoints()
        return paths[-1].read_bytes() if paths else None

    def save_status(self, status: dict[str, Any]) -> None:
        """Say what the trainer is doing, if that can be written; a power cut may undo it."""
        path = self.path / "status.json"
        with suppress(OSError), whole(path, durable=False) as partial:  # it only informs
            partial.write_text(json.dumps(stamped("status.json", status)), encoding="utf-8")

    def save_card(self, card: EnvironmentCard) -> None:
        """Write what others must know of the environment: whoever answers, and an import."""
        self._write_fields("environment.json", card_to_json(card))

    def card(self) -> EnvironmentCard:
        """Read what `save_card` wrote.

        Raises:
            UserError: it is not there, damaged, or of another version.
        """
        with self._reading("environment.json") as fields:
            return card_from_json(fields)

    def save_guide(self, guide: Guide) -> None:
        """Write what whoever answers needs to know beyond the question."""
        self._write_fields("guide.json", guide_to_json(guide))

    def guide(self) -> Guide:
        """Read what `save_guide` wrote; an empty guide of a run that has none.

        Raises:
            UserError: it is damaged, or of another version.
        """
        if not (self.path / "guide.json").exists():
            return Guide()
        with self._reading("guide.json") as fields:
            return guide_from_json(fields)

    def welcome(self, person: str) -> None:
        """Remember that a person has seen the page's first card."""
        if person not in (known := self.welcomed()):
            self._write_fields("welcomed.json", {"people": [*known, person]})

    def welcomed(self) -> list[str]:
        """Return who has seen the page's first card."""
        return list(self._read_if_there("welcomed.json").get("people", []))

    def check_environment(self, card: EnvironmentCard) -> None:
        """Raise `UserError` unless the environment has the spaces that the run was made with."""
        check_unchanged(self.card(), card, self.experiment().env, self.path)

    def status(self) -> dict[str, Any]:
        """Read what the trainer last said it was doing, {} if nothing."""
        return self._read_if_there("status.json")

    def save_evaluation(self, evaluation: Fields) -> None:
        """Write what the policy achieved."""
        self._write_fields("evaluation.json", evaluation)

    def evaluation(self) -> Fields:
        """Read what the policy achieved, {} if it was not evaluated, or by another version."""
        return self._read_if_there("evaluation.json")

    def save_outcome(self, ended: Ended, error: str = "") -> None:
        """Write how a cell of a sweep ended, even if it came to no run."""
        with self.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._write_fields("outcome.json", {"ended": ended, "error": error})

    def outcome(self) -> Fields:
        """Read how a cell of a sweep `ended`, and the `error`; {} if it has not."""
        return self._read_if_there("outcome.json")

    def viewer(self) -> dict[str, Any]:
        """Return the viewer's key, made once, and last port; for their owner alone."""
        path = self.path / "viewer.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            made = {"key": secrets.token_urlsafe(32), "port": None}
            self.save_viewer(made)
            return made

    def save_viewer(self, viewer: dict[str, Any]) -> None:
        """Write the viewer's key and port, readable by the owner alone."""
        path = self.path / "viewer.json"
        with self.writing(path), whole(path, mode=0o600) as partial:
            partial.write_text(json.dumps(viewer), encoding="utf-8")

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Turn what the disk says of the run's files into a sentence."""
        then = "and start it again"
        if (self.path / "config.json").exists():
            safe = "everything up to the last finished round is safe"
            then = f"and continue with `prefrl resume {self.path}`; {safe}"
        with writing(path, then):
            yield

    def _reading(self, name: str) -> AbstractContextManager[Fields]:
        return read_fields(self.path, name, "restore it from a copy")

    def _checkpoints(self) -> list[Path]:
        paths = (self.path / "checkpoints").glob("round-*.pt")
        return sorted(paths, key=lambda path: (len(path.name), path.name))  # 10000 after 9999

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}; restore it from a copy") from None
        if not isinstance(value, dict):
            raise UserError(f"{path} is damaged: expected a JSON object")
        return value

    def _read_if_there(self, name: str) -> Fields:
        try:
            return migrated(name, json.loads((self.path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError, AnotherVersion):
            return {}

    def _read_lines(self, name: str) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.exists():
            return []
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            return [json.loads(line) for line in lines[:-1]]
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}; restore it from a copy") from None

    def _append(self, name: str, values: dict[str, Any]) -> None:
        path = self.path / name
        with self.writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _write_fields(self, name: str, fields: Fields) -> None:
        with self.writing(self.path / name):
            write_fields(self.path, name, fields)

    def _write_json(self, name: str, value: Any) -> None:
        self._write(name, as_bytes(value))

    def _write(self, name: str, data: bytes) -> None:
        with self.writing(self.path / name), whole(self.path / name) as partial:
            partial.write_bytes(data)


def named_by_time(folder: str, stem: str) -> Path:
    """Return the path that a run gets if nobody names it: "runs/half-cheetah-20250131-120000"."""
    return Path(folder, f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()


def _is_made(path: Path, may_exist: bool) -> bool:
    """Make a folder; return whether it is new."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        if may_exist:
            return False
        raise
    return True


def write_fields(folder: Path, name: str, fields: Fields) -> None:
    """Write the fields of a file of the present format.

    Raises:
        OSError: it cannot be written.
    """
    with whole(folder / name) as partial:
        partial.write_bytes(as_bytes(stamped(name, fields)))


def as_bytes(value: Any) -> bytes:
    """Return JSON values as a file holds them."""
    return (json.dumps(value, indent=2) + "\n").encode()


@contextmanager
def read_fields(folder: Path, name: str, mend: str) -> Iterator[Fields]:
    """Give the fields of a file as its present format has them.

    Raises:
        UserError: it cannot be read, another version wrote it, or whoever is given the fields finds
            them damaged.
    """
    try:
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TypeError("expected a JSON object")
        yield migrated(name, fields)
    except (AnotherVersion, UnknownField) as error:
        raise another_version(folder, str(error)) from None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / name} is damaged: {error}; {mend}") from None
