"""Links of people's own to the page of a run: whose each is, and whether it still opens the page.

A link is known by a hash of its token: whoever reads the run folder, or the database, can open
nothing with what is kept here.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import Literal, get_args

from prefrl.errors import StoreError, UserError, check_plain
from prefrl.storage.feedback import FeedbackStore
from prefrl.storage.files import whole
from prefrl.storage.folder import RunFolder, as_bytes
from prefrl.storage.formats import AnotherVersion, migrated, stamped

LONGEST_NAME = 40  # characters, as in the page's own field

State = Literal["open", "paused", "withdrawn"]


@dataclass(frozen=True)
class Link:
    """One person's link."""

    person: str
    digest: str
    """SHA-256 of its token, in hexadecimal digits."""
    admin: bool = False
    """Whether it shows how the run is doing and what others answer; a labeller's does not."""
    state: State = "open"


class Links:
    """The links of one run, wherever it is kept: each call sees what others have just changed."""

    def __init__(self, folder: RunFolder, store: FeedbackStore):
        self.folder, self.store = folder, store

    def all(self) -> list[Link]:
        """Return every link that was made, in that order, the withdrawn ones too.

        Raises:
            StoreError: they cannot be read for now.
            UserError: their file is damaged, or another version wrote it.
        """
        data = self._read()
        if not data:
            return []
        try:
            links = [Link(**fields) for fields in migrated("links.json", json.loads(data))["links"]]
            if any(link.state not in get_args(State) for link in links):
                raise ValueError("a link is in no state that there is")
        except (AnotherVersion, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.folder.links} is damaged or another version's ({error}); delete it, and "
                "make the links anew: `prefrl label RUN --link NAME`"
            ) from None
        return links

    def find(self, token: str) -> Link | None:
        """Return the link of a token; all are compared, so that time tells nothing."""
        digest, found = _digest(token), None
        for link in self.all():
            if secrets.compare_digest(link.digest, digest):
                found = link
        return found

    def make(self, person: str, admin: bool = False) -> str:
        """Make a link for somebody, and return its token, which is kept nowhere.

        Raises:
            UserError: they have one, or nobody can be called that.
        """
        check_plain("the name of a link", person)
        if not 0 < len(person) <= LONGEST_NAME or person != person.strip():
            raise UserError(
                f"the name of a link is {person!r:.80}; expected 1 to {LONGEST_NAME} characters "
                "without spaces around them, such as ana"
            )
        token = secrets.token_urlsafe(32)
        with self._changing():
            links = self.all()
            if any(link.person == person and link.state != "withdrawn" for link in links):
                raise UserError(
                    f"{person} has a link already, and its token is kept nowhere; end it with "
                    f"`prefrl label RUN --withdraw {quote(person)}`, then make another"
                )
            self._write([*links, Link(person, _digest(token), admin)])
        return token

    def change(self, person: str, state: State) -> None:
        """Pause somebody's link, let it go on, or withdraw it for good.

        Raises:
            UserError: they have none.
        """
        with self._changing():
            links = self.all()
            theirs = [each for each in links if each.state != "withdrawn"]
            if not any(link.person == person for link in theirs):
                raise UserError(
                    f"{person!r:.80} has no link; expected one of "
                    f"{', '.join(link.person for link in theirs)}"
                    if theirs
                    else "nobody has a link of this run; `prefrl label RUN --link NAME` makes one"
                )
            self._write(
                [
                    replace(link, state=state) if link in theirs and link.person == person else link
                    for link in links
                ]
            )

    def change_all(self, state: Literal["open", "paused"]) -> None:
        """Pause the links of all labellers, or let them go on; admins' stay as they are."""
        with self._changing():
            self._write(
                [
                    link if link.admin or link.state == "withdrawn" else replace(link, state=state)
                    for link in self.all()
                ]
            )

    def _changing(self) -> AbstractContextManager[object]:
        """Let nobody else change them meanwhile."""
        return self.store.database.transaction()

    def _read(self) -> bytes:
        if self.store.shares:
            rows = self.store.database.run("SELECT data FROM file WHERE name = 'links.json'")
            return bytes(rows[0][0]) if rows else b""
        try:
            return self.folder.links.read_bytes()
        except FileNotFoundError:
            if self.folder.holds_run:
                return b""
            raise StoreError(
                f"the run folder {self.folder.path} has disappeared; nothing can be saved until it "
                "is back"
            ) from None
        except OSError as error:
            raise StoreError(f"cannot read {self.folder.links}: {error.strerror}") from None

    def _write(self, links: list[Link]) -> None:
        data = as_bytes(stamped("links.json", {"links": [asdict(link) for link in links]}))
        if self.store.shares:
            run = self.store.database.run
            run("DELETE FROM file WHERE name = 'links.json'")
            run("INSERT INTO file VALUES (?, ?, ?)", "links.json", data, self.store.database.now())
            return
        path = self.folder.links
        with self.folder.writing(path), whole(path, mode=0o600) as partial:
            partial.write_bytes(data)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
