"""Connections that were handed back and are not settled, without I/O (docs/reference/protocol.md, "Handing connections back")."""

from typing import NamedTuple

from . import frames


class Departure(NamedTuple):
    """One idle connection on its way to the broker, which is not to be read or written meanwhile."""

    fd: int  # A duplicate; whoever has the departure owns it.
    connection: bytes
    keep_alive: int  # milliseconds for which it may stay idle
    listener: str
    meta: bytes


class Departures:
    """`add` takes ownership of the duplicate; `taken`, `given_back` and `end` give it up."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._last = 0
        self._unannounced: list[frames.HandBack] = []
        self._untaken: dict[int, Departure] = {}
        self._taken: set[int] = set()

    @property
    def room(self) -> int:
        return self._window - len(self._untaken) - len(self._taken)

    @property
    def untaken(self) -> int:
        return len(self._untaken)

    def add(self, departure: Departure, token: bytes) -> bool:
        """Its message is on the lane. True: the first one since the last `announce`."""
        self._last += 1
        self._untaken[self._last] = departure
        _, connection, keep_alive, listener, meta = departure
        self._unannounced.append(frames.HandBack(self._last, token, connection, keep_alive, listener, meta))
        return len(self._unannounced) == 1

    def announce(self) -> list[frames.HandBack]:
        """The entries of the next HANDBACK, in the order of their lane messages."""
        entries, self._unannounced = self._unannounced, []
        return entries

    def taken(self, sequence: int) -> int:
        """The connection is the broker's. Returns the duplicate, to be closed."""
        fd = self._known(sequence).fd
        self._taken.add(sequence)
        return fd

    def given_back(self, sequence: int) -> Departure:
        return self._known(sequence)

    def settled(self, sequence: int) -> None:
        if sequence not in self._taken:
            raise frames.ProtocolError(f"SETTLED for {sequence}, which was not taken")
        self._taken.discard(sequence)

    def end(self) -> list[Departure]:
        """No further answer can arrive: those without one."""
        departures = list(self._untaken.values())
        self._untaken.clear()
        self._unannounced.clear()
        return departures

    def _known(self, sequence: int) -> Departure:
        departure = self._untaken.pop(sequence, None)
        if departure is None:
            raise frames.ProtocolError(f"an answer for {sequence}, which was not handed back")
        return departure
