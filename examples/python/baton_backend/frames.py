"""Encodes and decodes the frames of docs/reference/protocol.md that a backend sends and receives."""

import json
import struct
from typing import Iterable, Iterator, NamedTuple

LIMIT_BEFORE_WELCOME = 64 * 1024
LIMIT = 1024 * 1024
TOKEN_SIZE = 16

HELLO, WELCOME, REFUSED, RECONNECT = 0x01, 0x02, 0x03, 0x04
DRAIN, DRAINED, HEARTBEAT, STATS = 0x05, 0x06, 0x07, 0x08
OFFER, ACK, NACK, REVOKE = 0x10, 0x11, 0x12, 0x13
FIRST_SKIPPABLE = 0x80
REBALANCE, HANDBACK, TAKEN, GIVEN_BACK, SETTLED = 0x80, 0x81, 0x82, 0x83, 0x84
FROM_BROKER = {OFFER, REVOKE, DRAIN, HEARTBEAT, RECONNECT}
OF_HAND_BACK = {REBALANCE, TAKEN, GIVEN_BACK, SETTLED}  # Allowed once the broker has granted HANDBACK_CAPABILITY.
HANDBACK_CAPABILITY = "handback/1"

TOKEN_MISSING = 1
TOKEN_INVALID_LENGTH = 2
TOKEN_MISMATCH = 3
TOKEN_EXPIRED = 4
TOKEN_NOT_PENDING = 5
CONTROL_TRUNCATED = 6
BACKEND_DRAINING = 7
BACKEND_OVERLOADED = 8

KIND_DESCRIPTOR = 1

KIND_IDLE = 1  # In HANDBACK.
NO_KEEP_ALIVE_LIMIT = 0xFFFFFFFF
NO_TAKER = 1  # In GIVEN_BACK.

_COUNT = struct.Struct("<H")
_OFFER_HEAD = struct.Struct("<Q16s16sQBB")
_SEQUENCE = struct.Struct("<Q")
_ANSWER = struct.Struct("<QB")
_HANDBACK_HEAD = struct.Struct("<Q16s16sBIB")
_NO_STATE = bytes(1 + 4 * 4)  # Schema, prefix, both heads and state, all empty.


class ProtocolError(Exception):
    """The broker broke the protocol."""


class Offer(NamedTuple):
    sequence: int
    token: bytes
    connection: bytes
    deadline: int  # CLOCK_MONOTONIC nanoseconds
    kind: int
    listener: str
    meta: bytes  # a JSON object, or nothing

    def __repr__(self) -> str:  # Without the token, which must not be printed.
        return f"Offer(sequence={self.sequence})"


class Nack(NamedTuple):
    sequence: int
    reason: int
    token: bytes

    def __repr__(self) -> str:
        return f"Nack(sequence={self.sequence}, reason={self.reason})"


class HandBack(NamedTuple):
    """An idle connection that is handed back."""

    sequence: int
    token: bytes
    connection: bytes
    keep_alive: int  # milliseconds for which it may stay idle
    listener: str
    meta: bytes  # as it came in OFFER

    def __repr__(self) -> str:
        return f"HandBack(sequence={self.sequence})"


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<IB", 1 + len(payload), kind) + payload


def json_frame(kind: int, **members: object) -> bytes:
    return frame(kind, json.dumps(members, separators=(",", ":")).encode())


def ack(offers: Iterable[Offer]) -> bytes:
    entries = [struct.pack("<Q16s", offer.sequence, offer.connection) for offer in offers]
    return frame(ACK, _COUNT.pack(len(entries)) + b"".join(entries))


def nack(nacks: Iterable[Nack]) -> bytes:
    # 16s cuts a longer token and pads a shorter one with zeros.
    entries = [struct.pack("<QB16s", *entry) for entry in nacks]
    return frame(NACK, _COUNT.pack(len(entries)) + b"".join(entries))


def hand_back(entries: Iterable[HandBack]) -> bytes:
    parts = []
    for entry in entries:
        listener = entry.listener.encode()
        head = _HANDBACK_HEAD.pack(
            entry.sequence, entry.token, entry.connection, KIND_IDLE, entry.keep_alive, len(listener)
        )
        parts.append(head + listener + _COUNT.pack(len(entry.meta)) + entry.meta + _NO_STATE)
    return frame(HANDBACK, _COUNT.pack(len(parts)) + b"".join(parts))


class Decoder:
    """Splits the bytes of a control connection into (type, value), however they arrive."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def push(self, chunk: bytes) -> Iterator[tuple[int, object]]:
        """Yields one frame at a time, so that frames before a malformed one are not lost."""
        self._buffer += chunk
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from("<I", self._buffer)
            if not 1 <= length <= self._limit:
                raise ProtocolError(f"a frame of {length} bytes, wanted 1 to {self._limit}")
            if len(self._buffer) < 4 + length:
                return
            kind, payload = self._buffer[4], bytes(self._buffer[5 : 4 + length])
            del self._buffer[: 4 + length]
            if kind in _DECODERS:
                yield kind, _decode(kind, payload)
            elif kind < FIRST_SKIPPABLE:
                raise ProtocolError(f"frame type 0x{kind:02x}")


def _decode(kind: int, payload: bytes) -> object:
    try:
        return _DECODERS[kind](payload)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        # The cause may quote the payload, and with it a token.
        raise ProtocolError(f"malformed frame of type 0x{kind:02x}: {type(error).__name__}") from None


def _json(*required: tuple[str, type | tuple[type, ...]]):
    def decode(payload: bytes) -> dict:
        value = json.loads(payload.decode())
        if not isinstance(value, dict):
            raise TypeError
        for name, wanted in required:
            if not isinstance(value[name], wanted):
                raise TypeError
        return value

    return decode


def _offers(payload: bytes) -> list[Offer]:
    (count,) = _COUNT.unpack_from(payload)
    at, offers, last = _COUNT.size, [], 0
    for _ in range(count):
        sequence, token, connection, deadline, kind, size = _OFFER_HEAD.unpack_from(payload, at)
        at += _OFFER_HEAD.size
        listener = _take(payload, at, size).decode()
        at += size
        (size,) = _COUNT.unpack_from(payload, at)
        at += _COUNT.size
        meta = bytes(_take(payload, at, size))
        at += size
        # Kind 3, `resumed`, is only for backends that have sent RESUMES.
        if sequence <= last or kind not in (1, 2) or not isinstance(json.loads(meta or b"{}"), dict):
            raise ValueError
        last = sequence
        offers.append(Offer(sequence, token, connection, deadline, kind, listener, meta))
    if count == 0 or at != len(payload):
        raise ValueError
    return offers


def _sequences(payload: bytes) -> list[int]:
    (count,) = _COUNT.unpack_from(payload)
    if count == 0 or len(payload) != _COUNT.size + count * _SEQUENCE.size:
        raise ValueError
    return [sequence for (sequence,) in _SEQUENCE.iter_unpack(payload[_COUNT.size :])]


def _answers(payload: bytes) -> list[tuple[int, int]]:
    (count,) = _COUNT.unpack_from(payload)
    if count == 0 or len(payload) != _COUNT.size + count * _ANSWER.size:
        raise ValueError
    return list(_ANSWER.iter_unpack(payload[_COUNT.size :]))


def _take(payload: bytes, at: int, size: int) -> bytes:
    if at + size > len(payload):
        raise ValueError
    return payload[at : at + size]


_MILLISECONDS = (int, float)

_DECODERS = {
    WELCOME: _json(("backend", str), ("slot", str), ("tokenTtl", _MILLISECONDS), ("capabilities", list)),
    REFUSED: _json(("code", str), ("message", str), ("retry", bool)),
    RECONNECT: _json(),
    DRAIN: _json(),
    HEARTBEAT: _json(("id", int), ("reply", bool)),
    OFFER: _offers,
    REVOKE: _sequences,
    REBALANCE: _json(("count", int)),
    TAKEN: _sequences,
    GIVEN_BACK: _answers,
    SETTLED: _answers,
}
