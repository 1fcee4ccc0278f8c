"""One registration with one broker: a control connection, a lane, and the tokens between them (docs/reference/protocol.md)."""

import array
import os
import select
import socket
import threading
import time
from typing import Protocol

import frames
from tokens import Accepted, Ledger, Refused, Verdict

ANSWER_TIMEOUT = 5.0  # If the broker is stuck, the kernel still accepts the connection, but no answer comes.
WRITE_TIMEOUT = 5.0
TICK = 1.0  # STATS at least once a second.
SWEEP = 64  # Maximum messages read from the lane at each tick, with or without an OFFER.
MAX_FDS = 8  # More than the one allowed, so that surplus descriptors are received and closed.
SECOND = 1_000_000_000


class RegistrationRefused(Exception):
    """The broker refused, and why. `retry_after`: seconds until which another dial is refused too."""

    def __init__(self, answer: dict) -> None:
        super().__init__(f"{answer['code']}: {answer['message']}")
        self.retry_after = (answer.get("retryAfter") or 0) / 1000


class Host(Protocol):
    """A session's interface to its process. Called from the session's thread."""

    def reserve(self) -> int | None:
        """Reserves room for one connection, or returns the NACK reason why there is none."""

    def release(self) -> None:
        """Frees the room: the connection will not be adopted."""

    def adopt(self, fd: int) -> None:
        """Takes ownership of the descriptor; its ACK is in the kernel."""

    def stats(self) -> tuple[int, int]:
        """Connections adopted and closed since the process started."""

    def post(self, event: str, *details: object) -> None:
        """`drain` (deadline in seconds, None for no deadline, and reason), `reconnect` (session), `ended` (session)."""


def register(path: str, hello: dict[str, object]) -> tuple[socket.socket, socket.socket, dict]:
    """Sends HELLO and receives the answer: control, lane and WELCOME. The caller owns both sockets.

    Raises OSError, ProtocolError or RegistrationRefused.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # CLOEXEC, like all sockets in Python.
    fds: list[int] = []
    try:
        control.settimeout(ANSWER_TIMEOUT)
        control.connect(path)
        control.sendall(frames.json_frame(frames.HELLO, **hello))
        head = _receive_exactly(control, 4, fds)
        decoder = frames.Decoder(frames.LIMIT_BEFORE_WELCOME)
        answers = list(decoder.push(head))  # Checks the length before that many bytes are read.
        answers += decoder.push(_receive_exactly(control, int.from_bytes(head, "little"), fds))
        kind, answer = answers[0] if answers else (0, {})
        if kind == frames.REFUSED:
            raise RegistrationRefused(answer)
        if kind != frames.WELCOME or len(fds) != 1:
            raise frames.ProtocolError(f"frame 0x{kind:02x} with {len(fds)} descriptors, wanted WELCOME with 1")
        control.setblocking(False)
        lane = socket.socket(fileno=fds[0])
        fds.clear()
        return control, lane, answer
    except BaseException:
        control.close()
        raise
    finally:
        for fd in fds:
            os.close(fd)


class Session:
    def __init__(self, control: socket.socket, lane: socket.socket, welcome: dict, host: Host) -> None:
        """Takes ownership of both sockets. `start` runs it in its own thread; the owner must call `reap`."""
        self.since = time.monotonic()
        self._control = control
        self._lane = lane
        self._host = host
        self._ttl = welcome["tokenTtl"] / 1000
        self._ledger = Ledger(int(self._ttl * SECOND))
        self._decoder = frames.Decoder()
        self._writing = threading.Lock()
        self._writable = True
        self._verdicts: list[Verdict] = []
        self._unacked: list[Accepted] = []  # Room is reserved; not to be touched until the ACK is in the kernel.
        self._heartbeats: list[int] = []
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def announce_drain(self, deadline: float | None, reason: str) -> None:
        """Called from the main thread, like `finish` and `reap`."""
        milliseconds = None if deadline is None else round(deadline * 1000)
        self._write(frames.json_frame(frames.DRAIN, deadline=milliseconds, reason=reason))

    def finish(self) -> None:
        """Deregisters: all adopted connections have ended. Closes the session and waits for its thread."""
        self._write_stats(0)
        self._write(frames.json_frame(frames.DRAINED))
        self._give_up()
        self.reap()

    def reap(self) -> None:
        """Waits for the thread, and frees the session's last descriptor."""
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        try:
            self._write_stats(0)  # Before the first ACK, so that the broker counts from here.
            if self._serve():
                self._settle()
        except (frames.ProtocolError, OSError) as error:
            log(f"control connection given up: {error}")
        finally:
            self._let_go()
            self._host.post("ended", self)

    def _serve(self) -> bool:
        """True: control has ended and was read to its end. False: stopped by this process."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        due = time.monotonic() + TICK
        while not self._stopping:
            poll.poll(max(0, due - time.monotonic()) * 1000)
            if self._read():
                return True
            self._take_from_lane(self._ledger.waiting)
            late = time.monotonic() - due
            if late >= 0:
                due += late + TICK
                self._verdicts += self._ledger.expire(time.monotonic_ns())
                self._take_from_lane(SWEEP)
                self._write_stats(late * 1000)
            self._answer()
        return False

    def _read(self) -> bool:
        """Handles all frames before the lane is read, because a REVOKE may follow its OFFER. True at the end of control."""
        while True:
            try:
                chunk = self._control.recv(65_536)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                continue  # The broker had unread bytes when it closed; what it sent is delivered after this.
            if not chunk:
                return True
            for kind, value in self._decoder.push(chunk):
                self._handle(kind, value)

    def _handle(self, kind: int, value) -> None:
        if kind not in frames.FROM_BROKER:
            raise frames.ProtocolError(f"frame 0x{kind:02x} is out of order")
        if kind == frames.OFFER:
            now = time.monotonic_ns()
            for offer in value:
                if offer.kind == frames.KIND_DESCRIPTOR:
                    self._verdicts += self._ledger.offered(offer, now)
        elif kind == frames.REVOKE:
            self._ledger.revoked(value)
        elif kind == frames.HEARTBEAT:
            # Answered later: a write that fails here would lose the frames after this one.
            if not value["reply"]:
                self._heartbeats.append(value["id"])
        elif kind == frames.DRAIN:
            deadline = value.get("deadline")
            self._host.post("drain", None if deadline is None else deadline / 1000, value.get("reason", ""))
        elif kind == frames.RECONNECT:
            self._host.post("reconnect", self)

    def _take_from_lane(self, wanted: int) -> None:
        while wanted > 0:
            for _ in range(wanted):
                try:
                    # Not recv_fds: it ignores its flags, and programs that we execute would inherit the descriptors.
                    token, control, flags, _ = self._lane.recvmsg(
                        frames.TOKEN_SIZE + 1,
                        socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize),
                        socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
                    )
                except BlockingIOError:
                    return
                except ConnectionResetError:
                    continue
                fds = _descriptors(control)
                if not token and not fds and _at_end(self._lane):
                    return
                truncated = bool(flags & socket.MSG_CTRUNC)
                self._verdicts += self._ledger.arrived(token, fds, truncated, time.monotonic_ns())
            wanted = self._ledger.waiting

    def _answer(self) -> None:
        """Writes one NACK and one ACK per wake-up, and adopts the ACKed connections once the ACK is in the kernel."""
        refused = self._sort_verdicts()
        if refused:
            self._write(frames.nack(each.nack for each in refused))
        if self._unacked and self._write(frames.ack(each.offer for each in self._unacked)):
            self._adopt_unacked()
        for probe in self._heartbeats:
            self._write(frames.json_frame(frames.HEARTBEAT, id=probe, reply=True))
        self._heartbeats.clear()

    def _sort_verdicts(self) -> list[Refused]:
        """Reserves room for accepted connections, and closes the refused ones: a NACK states that they are closed."""
        refused: list[Refused] = []
        for verdict in self._verdicts:
            if isinstance(verdict, Accepted):
                reason = self._host.reserve()
                if reason is None:
                    self._unacked.append(verdict)
                    continue
                offer = verdict.offer
                verdict = Refused(frames.Nack(offer.sequence, reason, offer.token), [verdict.fd])
            refused.append(verdict)
        self._verdicts.clear()
        for each in refused:
            _close_all(each.fds)
        return refused

    def _adopt_unacked(self) -> None:
        while self._unacked:
            self._host.adopt(self._unacked.pop(0).fd)

    def _settle(self) -> None:
        """The broker is dead or has closed control. Once the lane is at its end too, no other process can read it back."""
        poll = select.poll()
        poll.register(self._lane, 0)  # POLLHUP is always reported.
        poll.register(self._wake, select.POLLIN)
        poll.poll(self._ttl * 1000)
        if not _at_end(self._lane):
            return
        self._take_from_lane(self._ledger.waiting)
        self._sort_verdicts()
        self._adopt_unacked()

    def _let_go(self) -> None:
        """Closes everything, in this order: connections without an ACK, the lane, control."""
        for verdict in self._verdicts + self._ledger.end():
            _close_all([verdict.fd] if isinstance(verdict, Accepted) else verdict.fds)
        self._verdicts.clear()
        for accepted in self._unacked:
            os.close(accepted.fd)
            self._host.release()
        self._unacked.clear()
        self._lane.close()
        with self._writing:
            self._writable = False
            self._control.close()

    def _give_up(self) -> None:
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def _write_stats(self, lag: float) -> None:
        adopted, closed = self._host.stats()
        self._write(frames.json_frame(frames.STATS, adopted=adopted, closed=closed, lag=round(lag, 3)))

    def _write(self, data: bytes) -> bool:
        """True: all of it is in the kernel. False: it never will be, and the end of control follows."""
        with self._writing:
            rest = memoryview(data)
            while rest and self._writable:
                try:
                    rest = rest[self._control.send(rest) :]
                except BlockingIOError:
                    if not _wait_writable(self._control):
                        log(f"the broker has read nothing for {WRITE_TIMEOUT} s")
                        self._writable = False
                        self._give_up()
                except ConnectionError:
                    self._writable = False
            return not rest


def log(message: str) -> None:
    os.write(2, f"python-backend: {message}\n".encode())


def _receive_exactly(control: socket.socket, size: int, fds: list[int]) -> bytes:
    """Receives exactly `size` bytes, and the descriptors that come with them; a plain read would destroy those."""
    data = b""
    while len(data) < size:
        chunk, ancillary, _, _ = control.recvmsg(
            size - len(data), socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
        )
        fds += _descriptors(ancillary)
        if not chunk:
            raise ConnectionError("the broker ended the connection before it answered")
        data += chunk
    return data


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds.tolist()


def _at_end(lane: socket.socket) -> bool:
    poll = select.poll()
    poll.register(lane, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _wait_writable(control: socket.socket) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLOUT)
    return bool(poll.poll(WRITE_TIMEOUT * 1000))


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
