"""Where the viewer listens, and which names reach it."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from typing import Any
from urllib.parse import urlsplit

from prefrl.errors import UserError

FIRST_PORT, PORTS = 8765, 100
HERE = "127.0.0.1"
NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,250}[a-z0-9_])?")


class Listener(socket.socket):
    """A listening socket that is not stopped by a process that can open nothing more.

    asyncio would try again at once, or once a second with a page of complaint for each connection
    that waits. Here a file is kept open that gives way, so that such a connection can be taken and
    closed.
    """

    def __init__(self, *details: Any, **options: Any):
        super().__init__(*details, **options)
        self._spare = open(os.devnull, "rb")  # noqa: SIM115, PTH123

    def accept(self) -> tuple[socket.socket, Any]:
        """Take the next connection.

        Raises:
            ConnectionAbortedError: nothing more can be opened, so it was closed.
        """
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._spare.close()
        try:
            super().accept()[0].close()
        finally:
            self._spare = open(os.devnull, "rb")  # noqa: SIM115, PTH123
        raise ConnectionAbortedError("no more files can be opened; the connection was closed")

    def close(self) -> None:
        """Stop listening."""
        self._spare.close()
        super().close()


def listen(host: str, port: int | None, before: int | None) -> Listener:
    """Open a port.

    Args:
        host: address or name of this machine to listen on.
        port: where; `before` or the first free one from 8765, by default.
        before: the port that was used last.

    Raises:
        UserError: no port can be opened, or the host is not this machine's.
    """
    candidates = [port] if port is not None else [
        *([before] if before else []), *range(FIRST_PORT, FIRST_PORT + PORTS),
    ]  # fmt: skip
    family, address = _resolved(host)
    for candidate in candidates:
        listener = Listener(family)
        if os.name == "posix":  # a port that was just given up may be taken at once
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, candidate))
            listener.listen(128)
        except (OSError, OverflowError) as error:
            listener.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
                raise _not_ours(host) from None
            continue
        return listener
    if port is not None:
        raise UserError(
            f"port {port} cannot be opened (in use by another program?); choose another --port, or "
            "leave it out and the first free one is taken"
        )
    raise UserError(f"none of the ports {FIRST_PORT} to {candidates[-1]} is free; give one: --port")


def _resolved(host: str) -> tuple[socket.AddressFamily, str]:
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(
            host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError, ValueError):
        raise _not_ours(host) from None
    return family, str(address[0])


def _not_ours(host: str) -> UserError:
    return UserError(
        f"--host is {host!r}; expected an address of this machine, such as {HERE} (for itself "
        "alone) or 0.0.0.0 (for every network that it is in)"
    )


def is_wide(host: str) -> bool:
    """Return whether others than this machine can reach who listens on a host."""
    _, address = _resolved(host)
    return not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def url(host: str, port: int) -> str:
    """Return the address under which this machine itself opens what listens on a host."""
    _, address = _resolved(host)
    known = ipaddress.ip_address(address.partition("%")[0])
    if known.is_unspecified:
        return f"http://{HERE if known.version == 4 else '[::1]'}:{port}/"
    return f"http://{address if known.version == 4 else f'[{address}]'}:{port}/"


def host_name(text: str) -> str:
    """Return a name as browsers write it in the Host header, without a port.

    Raises:
        UserError: no request could have such a name.
    """
    name = canonical(text)
    if name in ("0.0.0.0", "::"):
        raise UserError(
            f"--allow-host is {text!r}, under which no page is asked for; to listen on every "
            f"network use --host {name}"
        )
    if not name:
        raise UserError(
            f"--allow-host is {text!r}; expected a host's name alone, without scheme, port, path "
            f"or wildcard: --allow-host {_host_within(text) or 'labels.example.org'}"
        )
    return name


def canonical(text: str) -> str:
    """Return a host's name or address in its usual spelling, "" if it is neither."""
    text = text.strip().lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    try:
        name = text.encode("idna").decode()
    except UnicodeError:
        return ""
    return name if NAME.fullmatch(name) else ""


def _host_within(text: str) -> str:
    """Return the host in something like an address, "" if there is none."""
    try:
        host = urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""
    return canonical(host.removeprefix("*."))
