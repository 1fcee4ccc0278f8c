"""One registration with one broker: a control connection, a lane, and the tokens between them (docs/reference/protocol.md)."""

import asyncio
import os
import select
import socket
import time
from typing import Protocol

from . import frames
from .departures import Departure, Departures
from .log import log
from .outbox import Outbox
from .registration import ROOM_FOR_FDS, descriptors
from .tokens import Accepted, Ledger, Refused, Verdict

TICK = 1.0  # STATS at least once a second.
SWEEP = 64  # Maximum messages read from the lane at each tick, with or without an OFFER.
SECOND = 1_000_000_000


class Host(Protocol):
    """A session's interface to its process."""

    def reserve(self) -> int | None:
        """Reserves room for one connection, or returns the NACK reason why there is none."""

    def release(self) -> None:
        """Frees the room: the connection will not be adopted."""

    def adopt(self, offer: frames.Offer, fd: int) -> None:
        """Takes ownership of the descriptor; its ACK is in the kernel."""

    def left(self, count: int) -> None:
        """`count` connections are about to be the broker's; from here on they count as closed."""

    def returned(self, departure: Departure, stays: bool) -> None:
        """The connection is this process's again. Takes ownership of `departure.fd`. `stays`: do not hand it back again."""

    def stats(self) -> tuple[int, int]:
        """Connections adopted and closed since the process started."""

    def asked_to_drain(self, deadline: float | None, reason: str) -> None:
        """`deadline` in seconds, None for no deadline."""

    def asked_to_move(self, count: int) -> None:
        """Other backends have fewer connections: hand back `count` of those that can move."""

    def room(self) -> None:
        """More connections may be handed back than a moment ago."""


class Session:
    def __init__(self, control: socket.socket, lane: socket.socket, welcome: dict, host: Host) -> None:
        """Takes ownership of both sockets. Call `start` once."""
        self.since = time.monotonic()
        self.slot: str = welcome["slot"]
        self.grants_hand_back = frames.HANDBACK_CAPABILITY in welcome["capabilities"]
        self.takes_back = self.grants_hand_back  # Until GIVEN_BACK says that the broker takes nothing more.
        park_after = welcome.get("parkAfter")
        self.park_after = park_after / 1000 if self.grants_hand_back and park_after is not None else None
        self.due = asyncio.Event()  # A further dial is due: RECONNECT came, or control has ended.
        self.ended = asyncio.Event()  # Everything is closed.
        self._control = control
        self._lane = lane
        self._host = host
        self._ttl = welcome["tokenTtl"] / 1000
        self._ledger = Ledger(int(self._ttl * SECOND))
        self._departures = Departures(welcome.get("handBackWindow") or 0 if self.grants_hand_back else 0)
        self._decoder = frames.Decoder()
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(control, self._stuck, host.room)
        self._verdicts: list[Verdict] = []
        self._unacked: list[Accepted] = []  # Room is reserved; not to be touched until the ACK is in the kernel.
        self._heartbeats: list[int] = []
        self._tick: asyncio.TimerHandle | None = None
        self._due_at = 0.0
        self._lane_end: select.epoll | None = None
        self._over = False

    def start(self) -> None:
        self._write_stats(0)  # Before the first ACK, so that the broker counts from here.
        self._loop.add_reader(self._control, self._guarded, self._on_readable)
        self._schedule_tick()

    def announce_drain(self, deadline: float | None, reason: str) -> None:
        milliseconds = None if deadline is None else round(deadline * 1000)
        self._outbox.write(frames.json_frame(frames.DRAIN, deadline=milliseconds, reason=reason))

    @property
    def untaken(self) -> int:
        """Connections handed back that have neither become the broker's nor come back."""
        return self._departures.untaken

    @property
    def room(self) -> int:
        """How many connections may be handed back now."""
        if self._over or not self.takes_back or self._outbox.backed_up:
            return 0
        return self._departures.room

    def hand_back(self, departure: Departure) -> bool:
        """Puts a duplicate of the client's descriptor on the lane. Call it only if there is `room`, and in the same turn of
        the event loop in which the connection was found idle.

        True: this session owns `departure.fd`, and the caller aborts its transport at once. False: the connection has not been
        handed back.
        """
        token = os.urandom(frames.TOKEN_SIZE)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, departure.fd.to_bytes(4, "little"))]
        try:
            self._lane.sendmsg([token], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # EAGAIN, ETOOMANYREFS, or the broker has died.
            return False
        if self._departures.add(departure, token):
            # Two turns later, because an aborted transport closes its descriptor in the next one.
            self._loop.call_soon(lambda: self._loop.call_soon(self._announce_departures))
        return True

    def finish(self) -> None:
        """Deregisters: all adopted connections have ended."""
        if self._lane_end:  # There is no broker any more.
            self._let_go()
        if self._over:
            return
        self._write_stats(0)
        self._outbox.write(frames.json_frame(frames.DRAINED), self._let_go)

    def _announce_departures(self) -> None:
        if self._over or self._lane_end:
            return
        entries = self._departures.announce()
        self._host.left(len(entries))
        self._outbox.write(frames.hand_back(entries))

    def _guarded(self, step) -> None:
        """Runs a step. If the broker has broken the protocol, the registration is over."""
        try:
            step()
        except (frames.ProtocolError, OSError) as error:
            log(f"control connection given up: {error}")
            self._let_go()

    def _on_readable(self) -> None:
        ended = self._read()
        self._take_from_lane(self._ledger.waiting)
        if ended:
            self._settle()
        else:
            self._answer()

    def _schedule_tick(self) -> None:
        self._due_at = self._loop.time() + TICK
        self._tick = self._loop.call_at(self._due_at, self._guarded, self._on_tick)

    def _on_tick(self) -> None:
        late = self._loop.time() - self._due_at
        self._verdicts += self._ledger.expire(time.monotonic_ns())
        self._take_from_lane(SWEEP)
        self._write_stats(max(0, late) * 1000)
        self._answer()
        self._schedule_tick()

    def _read(self) -> bool:
        """Handles all frames before the lane is read, because a REVOKE may follow its OFFER. True at the end of control."""
        while not self._over:
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
        return False

    def _handle(self, kind: int, value) -> None:
        if kind in frames.OF_HAND_BACK and self.grants_hand_back:
            self._handle_hand_back(kind, value)
        elif kind not in frames.FROM_BROKER:
            raise frames.ProtocolError(f"frame 0x{kind:02x} is out of order")
        elif kind == frames.OFFER:
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
            self._host.asked_to_drain(None if deadline is None else deadline / 1000, value.get("reason", ""))
        elif kind == frames.RECONNECT:
            self.due.set()

    def _handle_hand_back(self, kind: int, value) -> None:
        if kind == frames.REBALANCE:
            self._host.asked_to_move(value["count"])
        elif kind == frames.TAKEN:
            for sequence in value:
                os.close(self._departures.taken(sequence))
            self._host.room()  # A drain may be over.
        elif kind == frames.GIVEN_BACK:
            for sequence, reason in value:
                if reason != frames.NO_TAKER:
                    self.takes_back = False
                self._host.returned(self._departures.given_back(sequence), stays=True)
        else:
            for sequence, _ in value:
                self._departures.settled(sequence)
            self._host.room()

    def _take_from_lane(self, wanted: int) -> None:
        while wanted > 0 and not self._over:
            for _ in range(wanted):
                try:
                    # Not recv_fds: it ignores its flags, and programs that we execute would inherit the descriptors.
                    token, control, flags, _ = self._lane.recvmsg(
                        frames.TOKEN_SIZE + 1, ROOM_FOR_FDS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                    )
                except BlockingIOError:
                    return
                except ConnectionResetError:
                    continue
                fds = descriptors(control)
                if not token and not fds and _at_end(self._lane):
                    return
                truncated = bool(flags & socket.MSG_CTRUNC)
                self._verdicts += self._ledger.arrived(token, fds, truncated, time.monotonic_ns())
            wanted = self._ledger.waiting

    def _answer(self) -> None:
        """Writes one NACK and one ACK per wake-up, and adopts the ACKed connections once the ACK is in the kernel."""
        refused = self._sort_verdicts()
        if refused:
            self._outbox.write(frames.nack(each.nack for each in refused))
        fresh = self._unacked[self._announced :]
        if fresh:
            self._announced = len(self._unacked)
            self._outbox.write(frames.ack(each.offer for each in fresh), lambda: self._adopt_unacked(len(fresh)))
        probes, self._heartbeats = self._heartbeats, []
        for probe in probes:
            if not self._outbox.backed_up:
                self._outbox.write(frames.json_frame(frames.HEARTBEAT, id=probe, reply=True))

    _announced = 0  # How many of `_unacked`, from the first on, have their ACK on its way.

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

    def _adopt_unacked(self, count: int) -> None:
        adopted, self._unacked = self._unacked[:count], self._unacked[count:]
        self._announced = max(0, self._announced - count)
        for accepted in adopted:
            self._host.adopt(accepted.offer, accepted.fd)

    def _settle(self) -> None:
        """The broker is dead or has closed control. Once the lane is at its end too, no other process can read it back."""
        self._loop.remove_reader(self._control)
        self._outbox.close()
        if self._tick:
            self._tick.cancel()
        log("broker connection ended; adopted connections continue")
        self._host.left(len(self._departures.announce()))
        for departure in self._departures.end():
            self._host.returned(departure, stays=False)
        self.due.set()
        # An epoll of its own reports the end alone, not that there is something to read.
        self._lane_end = select.epoll()
        self._lane_end.register(self._lane, 0)
        self._loop.add_reader(self._lane_end, self._guarded, self._on_lane_end)
        self._tick = self._loop.call_later(self._ttl, self._let_go)

    def _on_lane_end(self) -> None:
        self._take_from_lane(self._ledger.waiting)
        self._sort_verdicts()
        self._adopt_unacked(len(self._unacked))
        self._let_go()

    def _stuck(self) -> None:
        log("the broker has stopped reading")
        self._let_go()

    def _let_go(self) -> None:
        """Closes everything, in this order: connections without an ACK, duplicates, the lane, control."""
        if self._over:
            return
        self._over = True
        if self._tick:
            self._tick.cancel()
        self._loop.remove_reader(self._control)
        self._outbox.close()
        if self._lane_end:
            self._loop.remove_reader(self._lane_end)
            self._lane_end.close()
        for verdict in self._verdicts + self._ledger.end():
            _close_all([verdict.fd] if isinstance(verdict, Accepted) else verdict.fds)
        self._verdicts.clear()
        for accepted in self._unacked:
            os.close(accepted.fd)
            self._host.release()
        self._unacked.clear()
        # The broker may have taken those that are not answered.
        for departure in self._departures.end():
            os.close(departure.fd)
        self._lane.close()
        self._control.close()
        self.due.set()
        self.ended.set()

    def _write_stats(self, lag: float) -> None:
        adopted, closed = self._host.stats()
        self._outbox.write(frames.json_frame(frames.STATS, adopted=adopted, closed=closed, lag=round(lag, 3)))


def _at_end(lane: socket.socket) -> bool:
    poll = select.poll()
    poll.register(lane, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
