"""One adopted client, between asyncio's transport and the protocol of the app."""

import asyncio
import json
import time
from typing import Callable, Protocol

from . import frames

HEALTH_CHECKS = "baton:health"  # The listener's name in the OFFER of a health check.


class App(Protocol):
    """What serves the clients. `uvicorn_app.py` is one for ASGI applications."""

    def protocol(self) -> asyncio.Protocol:
        """A new protocol object for one connection."""

    def idle(self, protocol: asyncio.Protocol) -> bool:
        """Whether it is HTTP/1.1 between two requests: nothing read of the next one, the last answer written, and neither side
        is going to close."""

    def movable(self, protocol: asyncio.Protocol) -> bool:
        """Whether it can become idle at all. A WebSocket cannot."""

    def keep_alive(self) -> float:
        """Seconds for which a connection may stay idle."""

    def last_answer(self, protocol: asyncio.Protocol) -> None:
        """The next answer, or the one in progress, says `Connection: close`. What is no HTTP any more ends in its own way."""


class Connection(asyncio.Protocol):
    """Owns its transport. Tells `on_change` when it may have become idle, and `on_end` when the client has left."""

    def __init__(
        self,
        app: App,
        origin: frames.Offer,
        on_change: Callable[["Connection"], None],
        on_end: Callable[["Connection"], None],
        keep_alive: float | None = None,
    ) -> None:
        """keep_alive: seconds for which the connection, which comes back idle, may still wait for a request."""
        self.origin = origin
        self.fresh = True  # Nothing has been read here.
        self.moved = False  # It is on its way to the broker.
        self.stays = False  # It came back, and is not to be handed back again on this registration.
        self.last = False  # Its next answer is the last one.
        self.used = time.monotonic()  # When bytes were last read or written.
        self.transport: asyncio.Transport | None = None
        self.inner: asyncio.Protocol | None = None  # The app's; another one after an upgrade.
        self.park_timer: asyncio.TimerHandle | None = None
        self._app = app
        self._on_change = on_change
        self._on_end = on_end
        self._rest = keep_alive
        self._check_queued = False
        self._idle_timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """It could be handed back now, in this turn of the event loop."""
        return (
            self.transport is not None
            and not self.transport.is_closing()
            and self.transport.get_write_buffer_size() == 0
            and self.origin.listener != HEALTH_CHECKS
            and self._app.idle(self.inner)
        )

    @property
    def movable(self) -> bool:
        """It may become idle."""
        return self.transport is None or self._app.movable(self.inner)

    @property
    def keep_alive_left(self) -> float:
        """Seconds, from 0."""
        whole = self._app.keep_alive() if self._rest is None else self._rest
        return max(0.0, self.used + whole - time.monotonic())

    def finish(self) -> None:
        """It cannot move: its next answer is the last one, and without a request it ends when its keep-alive time is over."""
        if self.last:
            return
        self.last = True
        if self.transport:
            self._app.last_answer(self.inner)
            self._close_when_idle()

    def watch_writes(self) -> None:
        """Reports when all that was written is in the kernel, even if it is little."""
        if self.transport is not None and self.transport.get_write_buffer_size() > 0:
            self.transport.set_write_buffer_limits(high=0)

    def changed_soon(self) -> None:
        if not self._check_queued:
            self._check_queued = True
            asyncio.get_running_loop().call_soon(self._changed)

    # From asyncio.

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.inner = self._app.protocol()
        self.inner.connection_made(AppTransport(transport, self))
        if self.last:
            self._app.last_answer(self.inner)
        if self.last or self._rest is not None:
            self._close_when_idle()
        self.changed_soon()

    def data_received(self, data: bytes) -> None:
        self.used = time.monotonic()
        self.fresh = False
        self._rest = None
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
        self.changed_soon()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._idle_timer, self.park_timer):
            if timer:
                timer.cancel()
        try:
            self.inner.connection_lost(error)
        finally:
            self._on_end(self)

    def _changed(self) -> None:
        self._check_queued = False
        if not self.moved and not self.transport.is_closing():
            self._on_change(self)

    def _close_when_idle(self) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()
        self._idle_timer = asyncio.get_running_loop().call_later(self.keep_alive_left, self._idle_too_long)

    def _idle_too_long(self) -> None:
        if self.keep_alive_left > 0:
            if self.last or self._rest is not None:
                self._close_when_idle()
        elif self.transport and not self.moved and self._app.idle(self.inner):
            self.transport.close()


class AppTransport:
    """The transport that the app sees. Its addresses are the client's, also behind a load balancer with a PROXY header."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        proxy = json.loads(connection.origin.meta or b"{}").get("proxy")
        self._addresses = proxy and {
            "peername": (proxy["address"], proxy["port"]),
            "sockname": (proxy["localAddress"], proxy["localPort"]),
            "socket": None,  # Its own addresses are the load balancer's.
        }

    def __getattr__(self, name: str):
        return getattr(self._transport, name)

    def get_extra_info(self, name: str, default=None):
        if self._addresses and name in self._addresses:
            return self._addresses[name]
        return self._transport.get_extra_info(name, default)

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        self._wrote()

    def writelines(self, parts) -> None:
        self._transport.writelines(parts)
        self._wrote()

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._connection.inner = protocol

    def get_protocol(self) -> asyncio.Protocol:
        return self._connection.inner

    def _wrote(self) -> None:
        self._connection.used = time.monotonic()
        self._connection.changed_soon()
