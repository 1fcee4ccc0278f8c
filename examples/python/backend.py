#!/usr/bin/env python3
"""A Baton backend that needs only Python's standard library. Answers GET / with its pid and the client's address.

    BATON_SOCKET=/run/baton/control.sock BATON_SERVICE=web python3 backend.py

SIGTERM drains and exits with 0; a second SIGTERM ends the process immediately. When the broker goes away, adopted
connections continue, and the backend keeps dialling.
"""

import asyncio
import os
import signal
import sys

from baton_backend import Backend
from baton_backend.lifeline import watch_master
from baton_backend.log import log

KEEP_ALIVE = float(os.environ.get("KEEP_ALIVE", "60"))
DRAIN_DEADLINE = 10.0
MAX_HEAD = 16 * 1024


class OnePage(asyncio.Protocol):
    """HTTP/1.1, GET and HEAD alone, with as many requests on a connection as its client likes."""

    def __init__(self) -> None:
        self.unread = b""  # Of a request whose head is not complete.
        self.last = False  # The next answer is the last one.

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.unread += data
        while b"\r\n\r\n" in self.unread and not self._transport.is_closing():
            head, _, self.unread = self.unread.partition(b"\r\n\r\n")
            self._answer(head.decode("latin-1").split("\r\n"))
        if len(self.unread) > MAX_HEAD:
            self._transport.close()

    def _answer(self, head: list[str]) -> None:
        method, _, rest = head[0].partition(" ")
        fields = {name.lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in head[1:])}
        if method not in ("GET", "HEAD") or "content-length" in fields or "transfer-encoding" in fields:
            self._send("501 Not Implemented", "GET and HEAD alone\n", True, method)
            return
        last = self.last or fields.get("connection") == "close" or not rest.endswith(" HTTP/1.1")
        if rest.split(" ")[0] != "/":
            self._send("404 Not Found", "there is only /\n", last, method)
            return
        address = self._transport.get_extra_info("peername")
        client = ":".join(map(str, address[:2])) if address else "a Unix socket"
        self._send("200 OK", f"pid {os.getpid()} answers {client}\n", last, method)

    def _send(self, status: str, body: str, last: bool, method: str) -> None:
        head = [
            f"HTTP/1.1 {status}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            *(["Connection: close"] if last else []),
        ]
        answer = "\r\n".join(head) + "\r\n\r\n" + ("" if method == "HEAD" else body)
        self._transport.write(answer.encode())
        if last:
            self._transport.close()


class OnePageApp:
    """See `baton_backend.App`."""

    def protocol(self) -> OnePage:
        return OnePage()

    def idle(self, protocol: OnePage) -> bool:
        return not protocol.unread  # Each request is answered as soon as it is read.

    def movable(self, protocol: OnePage) -> bool:
        return True

    def keep_alive(self) -> float:
        return KEEP_ALIVE

    def last_answer(self, protocol: OnePage) -> None:
        protocol.last = True


async def serve(path: str) -> None:
    environment = os.environ.get
    backend = Backend(
        OnePageApp(),
        path,
        environment("BATON_SERVICE", "web"),
        version=environment("BATON_VERSION"),
        secret=environment("BATON_SECRET"),
    )
    loop = asyncio.get_running_loop()

    def on_terminate() -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        backend.drain(DRAIN_DEADLINE, "SIGTERM")

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, on_terminate)
    watch_master(backend, DRAIN_DEADLINE)
    await backend.run()


def main() -> int:
    path = os.environ.get("BATON_SOCKET")
    if not path:
        log("BATON_SOCKET is not set: it must be the path of the broker's control.sock")
        return 2
    asyncio.run(serve(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
