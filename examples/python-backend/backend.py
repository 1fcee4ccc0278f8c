#!/usr/bin/env python3
"""A Baton backend that needs only Python's standard library. Answers GET / with its pid and the client's address.

    BATON_SOCKET=/run/baton/control.sock BATON_SERVICE=web python3 backend.py

SIGTERM drains and exits with 0; a second SIGTERM ends the process immediately. When the broker goes away, adopted
connections continue, and the backend keeps dialling.
"""

import http.server
import os
import queue
import random
import signal
import socket
import sys
import threading
import time

import frames
from session import RegistrationRefused, Session, log, register

MAX_CONNECTIONS = 1000  # One thread each.
IDLE_TIMEOUT = 60.0
DRAIN_DEADLINE = 10.0
IDLE_GRACE = 1.0  # How long idle connections stay open when a drain begins: a request may be on its way.
FIRST_DELAY, MAX_DELAY = 0.05, 2.0
MIN_REGISTRATION = 1.0  # A shorter registration counts as a failed dial.
MAX_RETRY_AFTER = 60.0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_TIMEOUT
    wbufsize = -1  # Buffered, so that header and body are sent together.
    server: "Backend"

    def setup(self) -> None:
        super().setup()
        self.server.set_idle(self.connection, True)

    def parse_request(self) -> bool:
        self.server.set_idle(self.connection, False)
        return super().parse_request()

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self.server.set_idle(self.connection, True)

    def do_GET(self) -> None:
        found = self.path == "/"
        client = ":".join(map(str, self.client_address[:2])) if self.client_address else "a Unix socket"
        body = f"pid {os.getpid()} answers {client}\n" if found else "there is only /\n"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body.encode())))
        if self.server.draining:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """No access log: a line per request would be most of this program's work."""


class Backend:
    """Owns the adopted connections and stays registered. The main loop waits for events from other threads."""

    def __init__(self, path: str, service: str) -> None:
        self.draining = False
        self._path = path
        self._service = service
        self._id: str | None = None
        # SimpleQueue.put() is documented to be reentrant, and so is safe in a signal handler.
        self._events: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._sessions: set[Session] = set()
        self._lock = threading.Lock()
        self._live = 0  # Connections adopted, or reserved for adoption.
        self._adopted = 0
        self._closed = 0
        self._open: set[socket.socket] = set()
        self._idle: set[socket.socket] = set()  # Connections between two requests.
        self._delay = FIRST_DELAY
        self._complaint = ""

    # Called by sessions, see `session.Host`.

    def reserve(self) -> int | None:
        with self._lock:
            if self.draining:
                return frames.BACKEND_DRAINING
            if self._live >= MAX_CONNECTIONS:
                return frames.BACKEND_OVERLOADED
            self._live += 1
            return None

    def release(self) -> None:
        with self._lock:
            self._live -= 1
            idle = self._live == 0
        if idle:
            self.post("idle")

    def adopt(self, fd: int) -> None:
        client = socket.socket(fileno=fd)
        with self._lock:
            self._adopted += 1
            self._open.add(client)
        try:
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        except RuntimeError:
            log("no thread for another connection")
            self._done(client)

    def stats(self) -> tuple[int, int]:
        with self._lock:
            return self._adopted, self._closed

    def set_idle(self, client: socket.socket, idle: bool) -> None:
        """Called from the connection's thread."""
        with self._lock:
            (self._idle.add if idle else self._idle.discard)(client)

    def post(self, event: str, *details: object) -> None:
        self._events.put((event, *details))

    def _serve(self, client: socket.socket) -> None:
        try:
            Handler(client, client.getpeername(), self)  # Returns when the connection has ended.
        except OSError:
            pass  # The client has disconnected.
        finally:
            self._done(client)

    def _done(self, client: socket.socket) -> None:
        with self._lock:
            self._open.discard(client)
            self._idle.discard(client)
            self._closed += 1
        client.close()
        self.release()

    # Called from the main thread.

    def run(self) -> None:
        """Stays registered until a drain is requested."""
        while True:
            drain = self._register()
            if drain:
                return self._drain(*drain)

    def _register(self) -> tuple | None:
        """One registration, until the next dial is due. Returns the details of a drain if one was requested meanwhile."""
        try:
            control, lane, welcome = register(self._path, self._hello())
        except (OSError, frames.ProtocolError, RegistrationRefused) as error:
            self._complain(f"cannot register at {self._path}: {error}")
            retry_after = error.retry_after if isinstance(error, RegistrationRefused) else 0
            return self._pause(min(retry_after, MAX_RETRY_AFTER) + self._next_delay())
        session = Session(control, lane, welcome, self)
        self._sessions.add(session)
        self._id = welcome["backend"]
        session.start()
        self._complain(f"registered as {welcome['slot']}")
        self._complaint = ""
        drain = self._until_due(session)
        if drain:
            return drain
        if time.monotonic() - session.since >= MIN_REGISTRATION:
            self._delay = FIRST_DELAY
            return None
        return self._pause(self._next_delay())

    def _until_due(self, newest: Session) -> tuple | None:
        """Waits until `newest` gets RECONNECT or ends, after which a dial is due. Events of older sessions make none due."""
        while True:
            event, *details = self._events.get()
            if event == "drain":
                return tuple(details)
            if event == "ended":
                self._forget(details[0])
            if event in ("reconnect", "ended") and details[0] is newest:
                return None

    def _next_delay(self) -> float:
        delay, self._delay = self._delay, min(2 * self._delay, MAX_DELAY)
        return delay / 2 + delay / 2 * random.random()

    def _pause(self, seconds: float) -> tuple | None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                event, *details = self._events.get(timeout=left)
            except queue.Empty:
                return None
            if event == "drain":
                return tuple(details)
            if event == "ended":
                self._forget(details[0])
        return None

    def _forget(self, session: Session) -> None:
        self._sessions.discard(session)
        session.reap()
        log("broker connection ended; adopted connections continue")

    def _drain(self, deadline: float | None, reason: str) -> None:
        """Stops dialling and taking connections, lets current ones finish, then deregisters."""
        log(f"draining: {reason}")
        until = None if deadline is None else time.monotonic() + deadline
        with self._lock:
            self.draining = True
        for session in self._sessions:
            session.announce_drain(deadline, reason)
        grace = time.monotonic() + IDLE_GRACE
        if not self._wait_idle(grace if until is None else min(grace, until)):
            self._close_idle()
            if not self._wait_idle(until):
                self._cut()
                self._wait_idle(time.monotonic() + 1.0)
        for session in self._sessions:
            session.finish()

    def _wait_idle(self, until: float | None) -> bool:
        """Waits until the last connection has ended (True), or until that time (False)."""
        while True:
            with self._lock:
                if self._live == 0:
                    return True
            try:
                self._events.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return False

    def _close_idle(self) -> None:
        """Wakes the threads of idle connections. A request that is already in the kernel is still read and answered."""
        with self._lock:
            for client in self._idle:
                try:
                    client.shutdown(socket.SHUT_RD)
                except OSError:
                    pass  # Already disconnected.

    def _cut(self) -> None:
        with self._lock:
            log(f"drain deadline reached, cutting {len(self._open)} connections")
            for client in self._open:
                try:
                    client.shutdown(socket.SHUT_RDWR)  # Wakes its thread, which closes it.
                except OSError:
                    pass  # Already disconnected.

    def _hello(self) -> dict[str, object]:
        return {
            "protocol": 1,
            "capabilities": [],
            "service": self._service,
            "version": os.environ.get("BATON_VERSION"),
            "weight": 1,
            "pid": os.getpid(),
            "backend": self._id,
            "sdk": "python-backend/1",
            "secret": os.environ.get("BATON_SECRET"),
            "reconnect": None,
        }

    def _complain(self, message: str) -> None:
        """Logs a message once, not at each dial."""
        if message != self._complaint:
            log(message)
        self._complaint = message


def main() -> int:
    path, service = os.environ.get("BATON_SOCKET"), os.environ.get("BATON_SERVICE", "web")
    if not path:
        log("BATON_SOCKET is not set: it must be the path of the broker's control.sock")
        return 2
    backend = Backend(path, service)

    def on_terminate(*_: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        backend.post("drain", DRAIN_DEADLINE, "SIGTERM")

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, on_terminate)
    backend.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
