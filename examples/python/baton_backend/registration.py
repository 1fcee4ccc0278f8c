"""Registers at a broker: HELLO, and the answer with the lane's descriptor (docs/reference/protocol.md, "Registering")."""

import array
import asyncio
import os
import socket

from . import frames

ANSWER_TIMEOUT = 5.0  # If the broker is stuck, the kernel still accepts the connection, but no answer comes.
MAX_FDS = 8  # More than the one allowed, so that surplus descriptors are received and closed.
ROOM_FOR_FDS = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


class RegistrationRefused(Exception):
    """The broker refused, and why. `retry_after`: seconds until which another dial is refused too."""

    def __init__(self, answer: dict) -> None:
        super().__init__(f"{answer['code']}: {answer['message']}")
        self.retry_after = (answer.get("retryAfter") or 0) / 1000


async def register(path: str, hello: dict[str, object]) -> tuple[socket.socket, socket.socket, dict]:
    """Sends HELLO and receives the answer: control, lane and WELCOME. The caller owns both sockets.

    Raises OSError (a timeout, too), ProtocolError or RegistrationRefused. If it is cancelled, everything is closed.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # CLOEXEC, like all sockets in Python.
    control.setblocking(False)
    fds: list[int] = []
    try:
        # A Unix socket connects at once or not at all. `loop.sock_connect` would take a full backlog (EAGAIN) for progress.
        control.connect(path)
        answer = await asyncio.wait_for(_greet(control, hello, fds), ANSWER_TIMEOUT)
        lane = socket.socket(fileno=fds[0])
        fds.clear()
        return control, lane, answer
    except asyncio.TimeoutError:
        control.close()
        raise OSError(f"no answer within {ANSWER_TIMEOUT} s") from None
    except BaseException:
        control.close()
        raise
    finally:
        for fd in fds:
            os.close(fd)


async def _greet(control: socket.socket, hello: dict[str, object], fds: list[int]) -> dict:
    await asyncio.get_running_loop().sock_sendall(control, frames.json_frame(frames.HELLO, **hello))
    head = await _receive_exactly(control, 4, fds)
    decoder = frames.Decoder(frames.LIMIT_BEFORE_WELCOME)
    answers = list(decoder.push(head))  # Checks the length before that many bytes are read.
    answers += decoder.push(await _receive_exactly(control, int.from_bytes(head, "little"), fds))
    kind, answer = answers[0] if answers else (0, {})
    if kind == frames.REFUSED:
        raise RegistrationRefused(answer)
    if kind != frames.WELCOME or len(fds) != 1:
        raise frames.ProtocolError(f"frame 0x{kind:02x} with {len(fds)} descriptors, wanted WELCOME with 1")
    return answer


async def _receive_exactly(control: socket.socket, size: int, fds: list[int]) -> bytes:
    """Receives exactly `size` bytes, and the descriptors that come with them; a plain read would destroy those."""
    data = b""
    while len(data) < size:
        try:
            chunk, ancillary, _, _ = control.recvmsg(size - len(data), ROOM_FOR_FDS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            await _readable(control)
            continue
        fds += descriptors(ancillary)
        if not chunk:
            raise ConnectionError("the broker ended the connection before it answered")
        data += chunk
    return data


async def _readable(control: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(control, lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(control)


def descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Those in the control messages of one `recvmsg`. The caller owns them."""
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()
