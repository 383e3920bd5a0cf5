"""Where a run's feedback is, if it is in Postgres: the address of a database, and the run's name.

    postgresql://anna@labels.example.org/prefrl#backflip

A password is never part of it: one that is given goes into this process's environment, where
processes that it starts find it, too. Kept ones belong into a file that PGPASSFILE names.
"""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from prefrl.errors import CONTROL, UserError

SCHEMES = ("postgresql", "postgres")
EXPECTED = "expected postgresql://USER@HOST:PORT/DATABASE#RUN"


class Address(NamedTuple):
    """A run in a database."""

    url: str
    """Of the database, without a password."""
    run: str
    """Its name there; "" if it is not chosen yet."""

    def __str__(self) -> str:
        return f"{self.url}#{self.run}" if self.run else self.url


def is_address(text: str) -> bool:
    """Return whether a text is meant to be the address of a database."""
    return text.partition(":")[0].lower() in SCHEMES and "://" in text


def read_address(text: str) -> Address:
    """Read the address of a run in a database; a password goes into PGPASSWORD.

    Raises:
        UserError: it is none; the sentence does not repeat it, as a password may be in it.
    """
    try:
        parts = urlsplit(text)
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        password = parts.password
    except ValueError:
        raise UserError(f"the address of the database cannot be read; {EXPECTED}") from None
    if not is_address(text):
        raise UserError(f"the address of the database is of another kind; {EXPECTED}")
    if "sslpassword" in options:
        raise UserError(
            "the address of the database holds an sslpassword, which cannot be kept out of files; "
            "name a key without one (sslkey)"
        )
    password = options.pop("password", password and unquote(password))
    if password:
        os.environ["PGPASSWORD"] = password
    where = parts.netloc.rpartition("@")
    user = where[0].partition(":")[0]
    server = f"{user}@{where[2]}" if user else where[2]
    query = f"?{urlencode(options, safe='/')}" if options else ""
    run = unquote(parts.fragment)
    if CONTROL.search(run):
        raise UserError("the name of the run in the database's address holds control characters")
    return Address(f"postgresql://{server}{parts.path}{query}", run)
