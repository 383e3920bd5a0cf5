"""Closes connections that finish no request.

Some hundred of them must not stop the viewer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 100  # far below the 256 files that some systems let a process open
PATIENCE_SECONDS = 30.0  # the page itself gives up after 12


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that waits for nobody for ever.

    A connection has `PATIENCE_SECONDS` from its opening to its first response, and from each to
    the next: whoever sends half a request, or reads no response, is cut off. Where there are too
    many, the one that finished its last response the longest ago is closed.
    """

    patience: asyncio.TimerHandle

    def connection_made(self, transport: Any) -> None:
        """Take a connection, and close another one if it is one too many."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > MOST_CONNECTIONS:
            held = [other for other in self.connections if isinstance(other, PatientProtocol)]
            longest = min(held, key=lambda other: other.patience.when())
            self.connections.discard(longest)
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection that is closed."""
        self.patience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Begin to wait anew."""
        self.patience.cancel()
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self.patience = self.loop.call_later(PATIENCE_SECONDS, self.transport.abort)
