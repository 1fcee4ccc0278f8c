"""The writing half of a control connection."""

import asyncio
import collections
import socket
from typing import Callable

WRITE_TIMEOUT = 5.0  # A broker that reads nothing meanwhile is given up.


class Outbox:
    """Sends frames in order, without blocking, and tells when the bytes of one are in the kernel.

    A failed write is not the end of control: what the broker has sent before must still be read. Frames that could not be
    sent are dropped, and their `sent` is never called.
    """

    def __init__(self, control: socket.socket, stuck: Callable[[], None], drained: Callable[[], None]) -> None:
        """Borrows the socket until `close`. `drained`: nothing waits any longer, after something did."""
        self._control = control
        self._stuck = stuck
        self._drained = drained
        self._loop = asyncio.get_running_loop()
        self._waiting: collections.deque[tuple[memoryview, Callable[[], None] | None]] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True

    @property
    def backed_up(self) -> bool:
        return bool(self._waiting) or not self._writable

    def write(self, data: bytes, sent: Callable[[], None] | None = None) -> None:
        """`sent` is called when all of `data` is in the kernel: before this returns, or later, or never."""
        if not self._writable:
            return
        self._waiting.append((memoryview(data), sent))
        if len(self._waiting) == 1 and not self._flush():
            self._loop.add_writer(self._control, self._on_writable)
            self._restart_timer()

    def close(self) -> None:
        self._writable = False
        self._waiting.clear()
        self._loop.remove_writer(self._control)
        if self._timer:
            self._timer.cancel()

    def _flush(self) -> bool:
        """True: nothing waits any longer."""
        while self._waiting:
            data, sent = self._waiting[0]
            try:
                count = self._control.send(data)
            except BlockingIOError:
                return False
            except ConnectionError:
                self.close()
                return True
            if count < len(data):
                self._waiting[0] = (data[count:], sent)
                continue
            self._waiting.popleft()
            if sent:
                sent()
        return True

    def _on_writable(self) -> None:
        if not self._flush():
            self._restart_timer()
            return
        self._loop.remove_writer(self._control)
        if self._timer:
            self._timer.cancel()
        if self._writable:
            self._drained()

    def _restart_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(WRITE_TIMEOUT, self._stuck)
