"""A backend: stays registered at the broker, owns the adopted connections, and drains."""

import asyncio
import itertools
import os
import random
import resource
import socket
import time

from . import frames
from .connection import App, Connection
from .departures import Departure
from .log import log
from .registration import RegistrationRefused, register
from .session import Session

FIRST_DELAY, MAX_DELAY = 0.05, 2.0
MIN_REGISTRATION = 1.0  # A shorter registration counts as a failed dial.
MAX_RETRY_AFTER = 60.0
SPARE_DESCRIPTORS = 64  # For everything that is no client. A drain needs another one for each connection that moves.
CUT_TIMEOUT = 1.0


class Backend:
    """Use it in one event loop. `run` returns when it has drained."""

    def __init__(
        self,
        app: App,
        path: str,
        service: str,
        *,
        version: str | None = None,
        secret: str | None = None,
        max_connections: int | None = None,
    ) -> None:
        """path: the broker's control.sock."""
        self.registered = asyncio.Event()  # Set at the first WELCOME.
        self.draining = False
        self._app = app
        self._path = path
        self._service = service
        self._version = version
        self._secret = secret
        self._max = max_connections or max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS)
        self._id = os.environ.get("BATON_BACKEND_ID")
        self._sessions: list[Session] = []  # The newest last. Two while a broker process is being replaced.
        self._connections: set[Connection] = set()
        self._live = 0  # Connections adopted, or reserved for adoption.
        self._adopted = 0
        self._closed = 0
        self._drain_asked = asyncio.Event()
        self._deadline: float | None = None
        self._reason = ""
        self._progress = asyncio.Event()  # A drain may be over.
        self._may_move = True  # The last broker has granted it, or none has answered yet.
        self._delay = FIRST_DELAY
        self._complaint = ""
        self._tasks: set[asyncio.Task] = set()

    async def run(self) -> None:
        """Stays registered until a drain is asked for, by `drain` or by the broker; returns when the drain is over."""
        dialling = asyncio.ensure_future(self._stay_registered())
        asked = asyncio.ensure_future(self._drain_asked.wait())
        try:
            # The first of them ends only with a fault of this program.
            await asyncio.wait({dialling, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                dialling.result()
            await self._drain()
        finally:
            dialling.cancel()
            asked.cancel()
        for session in self._sessions:
            session.finish()
        await asyncio.gather(*(session.ended.wait() for session in self._sessions))

    def drain(self, deadline: float | None, reason: str) -> None:
        """Takes no more connections, and lets go of those that are here: the idle ones move, and requests finish. What is left
        after `deadline` seconds is cut. None: nothing is cut. Of several deadlines, the earliest counts."""
        if deadline is not None:
            until = time.monotonic() + deadline
            self._deadline = until if self._deadline is None else min(self._deadline, until)
        if self.draining:
            self._progress.set()
            return
        log(f"draining: {reason}")
        self.draining = True
        self._reason = reason
        for session in self._sessions:
            session.announce_drain(deadline, reason)
        self._drain_asked.set()

    # From sessions, see `session.Host`.

    def reserve(self) -> int | None:
        if self.draining:
            return frames.BACKEND_DRAINING
        if self._live >= self._max:
            return frames.BACKEND_OVERLOADED
        self._live += 1
        return None

    def release(self) -> None:
        self._live -= 1
        self._progress.set()

    def adopt(self, offer: frames.Offer, fd: int) -> None:
        self._adopted += 1
        self._serve(Connection(self._app, offer, self._changed, self._ended), fd)

    def left(self, count: int) -> None:
        self._closed += count

    def returned(self, departure: Departure, stays: bool) -> None:
        """One that could not move. It is as idle as it was."""
        origin = frames.Offer(
            0, b"", departure.connection, 0, frames.KIND_DESCRIPTOR, departure.listener, departure.meta
        )
        rest = departure.keep_alive / 1000
        connection = Connection(self._app, origin, self._changed, self._ended, rest)
        connection.stays = stays
        self._live += 1
        self._adopted += 1
        self._serve(connection, departure.fd)
        self._progress.set()

    def stats(self) -> tuple[int, int]:
        return self._adopted, self._closed

    def asked_to_drain(self, deadline: float | None, reason: str) -> None:
        self.drain(deadline, reason)

    def asked_to_move(self, count: int) -> None:
        self._move(count)

    def room(self) -> None:
        if self.draining:
            self._move()
        self._progress.set()

    # Connections.

    def _serve(self, connection: Connection, fd: int) -> None:
        self._connections.add(connection)
        client = socket.socket(fileno=fd)
        client.setblocking(False)
        task = asyncio.ensure_future(self._connect(connection, client))
        self._tasks.add(task)  # The event loop alone keeps no task alive.
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection, client: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
        except OSError as error:
            log(f"cannot serve a connection: {error}")
            client.close()
            if connection.transport is None:
                self._ended(connection)

    def _changed(self, connection: Connection) -> None:
        """It may have become idle."""
        if not self.draining:
            # Of a connection on which nothing was read, the first request may be in the kernel: parked, it would come back.
            if self._park_after is not None and connection.park_timer is None and not connection.fresh:
                self._park_later(connection)
        elif not connection.movable:
            connection.finish()
        elif not connection.idle:
            connection.watch_writes()
        elif self._mover and not connection.stays:
            self._hand_back(self._mover, connection)

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not connection.moved:
            self._closed += 1
        self.release()

    @property
    def _mover(self) -> Session | None:
        """The newest registration whose broker takes connections back."""
        return next((each for each in reversed(self._sessions) if each.takes_back and not each.ended.is_set()), None)

    @property
    def _park_after(self) -> float | None:
        return self._mover.park_after if self._mover else None

    def _park_later(self, connection: Connection) -> None:
        left = max(0.0, connection.used + self._park_after - time.monotonic())
        connection.park_timer = asyncio.get_running_loop().call_later(left, self._park, connection)

    def _park(self, connection: Connection) -> None:
        connection.park_timer = None
        if self._park_after is None or connection.moved or not connection.idle:
            return  # The next answer tries again.
        if time.monotonic() - connection.used < self._park_after:
            self._park_later(connection)
        elif not connection.stays:
            self._hand_back(self._mover, connection)

    def _move(self, most: int | None = None) -> None:
        """Hands back connections that are idle, as far as the broker has room for them."""
        session = self._mover
        if session is None:
            return
        idle = (each for each in self._connections if not each.moved and not each.stays and each.idle)
        for connection in itertools.islice(idle, session.room if most is None else min(most, session.room)):
            if not self._hand_back(session, connection):
                return

    def _hand_back(self, session: Session, connection: Connection) -> bool:
        """Checking that it is idle and letting go of it are one step: the event loop, which reads, does not run in between."""
        if session.room == 0:
            return False
        origin = connection.origin
        fd = os.dup(connection.transport.get_extra_info("socket").fileno())  # Not inheritable.
        keep_alive = round(connection.keep_alive_left * 1000)
        if not session.hand_back(Departure(fd, origin.connection, keep_alive, origin.listener, origin.meta)):
            os.close(fd)
            return False
        connection.moved = True
        connection.transport.abort()  # Closes this descriptor; a close alone says nothing to the client while there is another.
        return True

    # The registration.

    async def _stay_registered(self) -> None:
        while not self.draining or self._may_move:
            try:
                control, lane, welcome = await register(self._path, self._hello())
            except (OSError, frames.ProtocolError, RegistrationRefused) as error:
                self._complain(f"cannot register at {self._path}: {error}")
                retry_after = error.retry_after if isinstance(error, RegistrationRefused) else 0
                await asyncio.sleep(min(retry_after, MAX_RETRY_AFTER) + self._next_delay())
                continue
            session = self._begin(Session(control, lane, welcome, self), welcome["backend"])
            await session.due.wait()
            if time.monotonic() - session.since >= MIN_REGISTRATION:
                self._delay = FIRST_DELAY
            else:
                await asyncio.sleep(self._next_delay())

    def _begin(self, session: Session, id: str) -> Session:
        self._sessions = [each for each in self._sessions if not each.ended.is_set()] + [session]
        self._id = id
        self._may_move = session.grants_hand_back
        session.start()
        self._complain(f"registered as {session.slot}")
        self._complaint = ""
        self.registered.set()
        if self.draining:
            session.announce_drain(self._left(), self._reason)
            for connection in self._connections:
                connection.stays = False
            self._move()
            self._progress.set()
        return session

    def _hello(self) -> dict[str, object]:
        return {
            "protocol": 1,
            "capabilities": [frames.HANDBACK_CAPABILITY],
            "service": self._service,
            "version": self._version,
            "weight": 1,
            "pid": os.getpid(),
            "backend": self._id,
            "sdk": "baton-backend-python/1",
            "secret": self._secret,
            "reconnect": None,
            "draining": self.draining,
        }

    def _next_delay(self) -> float:
        delay, self._delay = self._delay, min(2 * self._delay, MAX_DELAY)
        return delay / 2 + delay / 2 * random.random()

    def _complain(self, message: str) -> None:
        """Logs a message once, not at each dial."""
        if message != self._complaint:
            log(message)
        self._complaint = message

    # The drain.

    async def _drain(self) -> None:
        try:
            await self._until_empty()
        except asyncio.TimeoutError:
            log(f"drain deadline reached, cutting {len(self._connections)} connections")
            for connection in self._connections:
                if connection.transport:
                    connection.transport.abort()
            self._deadline = time.monotonic() + CUT_TIMEOUT
            try:
                await self._until_empty()
            except asyncio.TimeoutError:
                pass  # Handed back, and the broker does not answer: closing control leaves them to it.

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def _until_empty(self) -> None:
        """Raises TimeoutError at the deadline, which may become earlier meanwhile."""
        while True:
            self._move()
            registered = any(not each.due.is_set() for each in self._sessions)
            none_moves = self._mover is None and (registered or not self._may_move)
            for connection in list(self._connections):
                if none_moves or connection.stays or not connection.movable:
                    connection.finish()
            if self._live == 0 and not any(session.untaken for session in self._sessions):
                return
            self._progress.clear()
            await asyncio.wait_for(self._progress.wait(), self._left())
