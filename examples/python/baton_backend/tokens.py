"""Matches descriptors to offers by the rules of docs/reference/protocol.md, without I/O.

Each token arrives twice, in an OFFER and with a descriptor, and either may be read first. The ledger closes nothing:
every descriptor that goes in comes out in exactly one verdict, and the caller that receives the verdict owns it.
"""

import hmac
from typing import NamedTuple

from . import frames

# A lane holds 278 messages with default buffers; a correct broker cannot have more than that parked.
MAX_PARKED = 512


class Accepted(NamedTuple):
    offer: frames.Offer
    fd: int


class Refused(NamedTuple):
    nack: frames.Nack
    fds: list[int]


class _Parked(NamedTuple):
    token: bytes
    fd: int
    until: int


Verdict = Accepted | Refused


class Ledger:
    def __init__(self, token_ttl: int) -> None:
        """token_ttl and each `now` below are nanoseconds of CLOCK_MONOTONIC."""
        self._ttl = token_ttl
        self._waiting: dict[int, frames.Offer] = {}
        self._parked: list[_Parked] = []
        self._spent: dict[bytes, int] = {}

    @property
    def waiting(self) -> int:
        """Offers whose descriptor has not arrived: the number of messages to expect on the lane."""
        return len(self._waiting)

    def offered(self, offer: frames.Offer, now: int) -> list[Verdict]:
        if offer.token in self._spent:
            return []
        for parked in self._parked:
            if hmac.compare_digest(parked.token, offer.token):
                self._parked.remove(parked)
                return [self._match(offer, parked.fd, now)]
        self._waiting[offer.sequence] = offer
        return []

    def arrived(self, token: bytes, fds: list[int], truncated: bool, now: int) -> list[Verdict]:
        """One lane message was received. No verdict: its descriptor is parked."""
        if len(token) != frames.TOKEN_SIZE:
            reason = frames.TOKEN_INVALID_LENGTH if token else frames.TOKEN_MISSING
            return [_refuse(0, reason, token, fds)]
        offer = self._take_waiting(token)
        if len(fds) != 1 or truncated:
            self._spend(token, now)
            return [_refuse(offer.sequence if offer else 0, frames.CONTROL_TRUNCATED, token, fds)]
        if offer:
            return [self._match(offer, fds[0], now)]
        if token in self._spent or len(self._parked) >= MAX_PARKED:
            return [_refuse(0, frames.TOKEN_NOT_PENDING, token, fds)]
        self._parked.append(_Parked(token, fds[0], now + self._ttl))
        return []

    def revoked(self, sequences: list[int]) -> None:
        for sequence in sequences:
            self._waiting.pop(sequence, None)

    def expire(self, now: int) -> list[Verdict]:
        """Drops entries whose time is over. Parked, waiting and spent are each ordered by time."""
        refused: list[Verdict] = []
        while self._parked and self._parked[0].until <= now:
            parked = self._parked.pop(0)
            refused.append(_refuse(0, self._why_unclaimed(now), parked.token, [parked.fd]))
        for sequence, offer in list(self._waiting.items()):
            if offer.deadline + self._ttl > now:
                break
            del self._waiting[sequence]
        for token, until in list(self._spent.items()):
            if until > now:
                break
            del self._spent[token]
        return refused

    def end(self) -> list[Verdict]:
        """No further OFFER can arrive."""
        self._waiting.clear()
        parked, self._parked = self._parked, []
        return [_refuse(0, frames.TOKEN_NOT_PENDING, each.token, [each.fd]) for each in parked]

    def _match(self, offer: frames.Offer, fd: int, now: int) -> Verdict:
        self._spend(offer.token, now)
        if now > offer.deadline:
            return _refuse(offer.sequence, frames.TOKEN_EXPIRED, offer.token, [fd])
        return Accepted(offer, fd)

    def _take_waiting(self, token: bytes) -> frames.Offer | None:
        for sequence, offer in self._waiting.items():
            if hmac.compare_digest(offer.token, token):
                return self._waiting.pop(sequence)
        return None

    def _spend(self, token: bytes, now: int) -> None:
        self._spent[token] = now + 2 * self._ttl

    def _why_unclaimed(self, now: int) -> int:
        # If an offer has been waiting past its deadline, the two probably belong together and the token was wrong. Each
        # such offer accounts for one descriptor.
        for sequence, offer in self._waiting.items():
            if offer.deadline > now:
                break
            del self._waiting[sequence]
            return frames.TOKEN_MISMATCH
        return frames.TOKEN_NOT_PENDING


def _refuse(sequence: int, reason: int, token: bytes, fds: list[int]) -> Refused:
    return Refused(frames.Nack(sequence, reason, token), fds)
