"""What a query is called on a labeller's page: a name that tells nothing of it.

By its round and index a gold question would be known from others, and a pair that comes back from a
new one. So a labeller's page gets tickets that only its viewer can read; each person has others.
"""

from __future__ import annotations

import hashlib
import re
import struct

from prefrl.errors import UserError
from prefrl.storage.labelling import Ticket
from prefrl.types import QueryId

LAYOUT, TAG = "<iiB", 6  # round, index, which; bytes of the hash by which a ticket is known
SEALED = re.compile(f"q([0-9a-f]{{{2 * (TAG + struct.calcsize(LAYOUT))}}})")


def secret_of(key: str, person: str) -> bytes:
    """Return what the tickets of one person are sealed with, in the run of a key."""
    return hashlib.blake2b(f"{key} tickets of {person}".encode(), digest_size=32).digest()


def seal(ticket: Ticket, secret: bytes) -> str:
    """Return a ticket's name for whoever has not the secret: always the same."""
    which = 2 * ticket.revision + ticket.repeat
    plain = struct.pack(LAYOUT, *ticket.query, which)
    tag = _hash(plain, secret, TAG)
    return f"q{(tag + _mixed(plain, tag, secret)).hex()}"


def unseal(text: str, secret: bytes) -> Ticket:
    """Read what `seal` wrote.

    Raises:
        UserError: it is no such name.
    """
    if match := SEALED.fullmatch(text):
        data = bytes.fromhex(match[1])
        plain = _mixed(data[TAG:], data[:TAG], secret)
        round_index, index, which = struct.unpack(LAYOUT, plain)
        ticket = Ticket(QueryId(round_index, index), bool(which & 1), bool(which & 2))
        if seal(ticket, secret) == text:
            return ticket
    raise UserError(f"{text[:40]!r} is not a ticket; expected one that the viewer gave out")


def _mixed(data: bytes, tag: bytes, secret: bytes) -> bytes:
    stream = _hash(tag, secret, len(data))
    return bytes(one ^ other for one, other in zip(data, stream, strict=True))


def _hash(data: bytes, secret: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, key=secret, digest_size=size).digest()
