"""Serves an ASGI application (Starlette, FastAPI, Quart, Django, ...) with uvicorn, at the broker instead of at a port."""

import asyncio

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .backend import Backend
from .lifeline import watch_master

LAST = (b"connection", b"close")


class UvicornApp:
    """See `connection.App`. h11 says exactly what it has read, so that idle connections can move."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server

    def protocol(self) -> asyncio.Protocol:
        return H11Protocol(config=self._server.config, server_state=self._server.server_state)

    def idle(self, protocol: asyncio.Protocol) -> bool:
        return (
            isinstance(protocol, H11Protocol)
            and protocol.conn.our_state is h11.IDLE
            and protocol.conn.their_state is h11.IDLE
            and protocol.conn.trailing_data == (b"", False)
            and (protocol.cycle is None or protocol.cycle.response_complete)
        )

    def movable(self, protocol: asyncio.Protocol) -> bool:
        return isinstance(protocol, H11Protocol)

    def keep_alive(self) -> float:
        return self._server.config.timeout_keep_alive

    def last_answer(self, protocol: asyncio.Protocol) -> None:
        if not isinstance(protocol, H11Protocol):
            protocol.shutdown()  # A WebSocket: 1012, and the client comes back to another backend.
            return
        protocol.default_headers = [*protocol.default_headers, LAST]
        if protocol.cycle and not protocol.cycle.response_started:
            protocol.cycle.default_headers = protocol.default_headers


class Server(uvicorn.Server):
    """uvicorn's server with a broker in place of its sockets: lifespan, logging and signals are uvicorn's."""

    def __init__(self, config: uvicorn.Config, path: str, service: str, drain_deadline: float, **options) -> None:
        """config: with http="h11". path: the broker's control.sock. options: as for `Backend`."""
        super().__init__(config)
        self._backend = Backend(UvicornApp(self), path, service, **options)
        self._drain_deadline = drain_deadline

    async def startup(self, sockets=None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        self.servers = []
        self._serving = asyncio.ensure_future(self._backend.run())
        self._serving.add_done_callback(self._on_drained)
        watch_master(self._backend, self._drain_deadline)
        self.started = True

    async def shutdown(self, sockets=None) -> None:
        self._backend.drain(self._drain_deadline, "a signal")
        await self._serving
        await super().shutdown(sockets)

    def _on_drained(self, _: asyncio.Future) -> None:
        """The broker has asked for a drain, and it is over."""
        self.should_exit = True
