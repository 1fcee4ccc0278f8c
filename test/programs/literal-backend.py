#!/usr/bin/env python3
"""A backend that dials more often than docs/reference/protocol.md asks for, to measure the cost for a broker.

    python3 literal-backend.py CONTROL.SOCK SERVICE [--deaf]

It follows each rule literally: it redials on RECONNECT, on every end, and after REFUSED, always immediately.
With --deaf it does not wait for `retryAfter` either. Clients are answered with this process's pid. Each registration
and each refusal is a line of JSON.
"""

import array
import json
import os
import selectors
import socket
import struct
import sys
import time

HELLO, WELCOME, REFUSED, RECONNECT, HEARTBEAT, STATS, OFFER, ACK, REVOKE = 1, 2, 3, 4, 7, 8, 16, 17, 19
RIGHTS = socket.CMSG_SPACE(8 * 4)
TICK = 0.5


def say(msg: str, **more: object) -> None:
    print(json.dumps({"msg": msg, "pid": os.getpid(), **more}), flush=True)


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack("<IB", 1 + len(payload), kind) + payload


def json_frame(kind: int, **members: object) -> bytes:
    return frame(kind, json.dumps(members).encode())


def descriptors(ancillary: list) -> list[int]:
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data[: len(data) // 4 * 4])
    return fds.tolist()


class Registration:
    def __init__(self, control: socket.socket, lane: socket.socket) -> None:
        self.control = control
        self.lane = lane
        self.buffer = b""
        self.offers: dict[bytes, tuple[int, bytes]] = {}  # By token: sequence and ULID.

    def read(self) -> bool:
        """False at the end of control."""
        while True:
            try:
                chunk = self.control.recv(65536)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                continue
            if not chunk:
                return False
            self.buffer += chunk

    def frames(self):
        while len(self.buffer) >= 4:
            (length,) = struct.unpack_from("<I", self.buffer)
            if len(self.buffer) < 4 + length:
                return
            kind, payload = self.buffer[4], self.buffer[5 : 4 + length]
            self.buffer = self.buffer[4 + length :]
            yield kind, payload

    def offered(self, payload: bytes) -> None:
        (count,), at = struct.unpack_from("<H", payload), 2
        for _ in range(count):
            sequence, token, ulid, _, _, size = struct.unpack_from("<Q16s16sQBB", payload, at)
            at += 50 + size
            at += 2 + struct.unpack_from("<H", payload, at)[0]
            self.offers[token] = (sequence, ulid)

    def take(self, backend: "Backend") -> None:
        while self.offers:
            try:
                token, ancillary, _, _ = self.lane.recvmsg(17, RIGHTS, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            fds = descriptors(ancillary)
            if len(fds) != 1 or token not in self.offers:
                for fd in fds:
                    os.close(fd)
                return
            sequence, ulid = self.offers.pop(token)
            self.send(frame(ACK, struct.pack("<HQ16s", 1, sequence, ulid)))
            backend.serve(fds[0])

    def send(self, data: bytes) -> None:
        try:
            self.control.sendall(data)
        except OSError:
            pass  # The end follows.

    def close(self) -> None:
        self.lane.close()
        self.control.close()


class Backend:
    def __init__(self, path: str, service: str, deaf: bool) -> None:
        self.path, self.service, self.deaf = path, service, deaf
        self.id = None
        self.served = 0
        self.dials: list[float] = []  # When each one is due.
        self.selector = selectors.DefaultSelector()
        self.registrations: set[Registration] = set()

    def dial(self, after: float = 0) -> None:
        self.dials.append(time.monotonic() + after)

    def run(self) -> None:
        self.dial()
        tick = time.monotonic()
        while True:
            now = time.monotonic()
            due = [each for each in self.dials if each <= now]
            self.dials = [each for each in self.dials if each > now]
            for _ in due:
                self.register()
            if now >= tick:
                tick = now + TICK
                for each in self.registrations:
                    each.send(self.stats())
            timeout = max(0.0, min([tick, *self.dials]) - time.monotonic())
            for key, _ in self.selector.select(timeout):
                self.readable(key.data)

    def readable(self, registration: Registration) -> None:
        alive = registration.read()
        for kind, payload in registration.frames():
            if kind == OFFER:
                registration.offered(payload)
            elif kind == REVOKE:
                registration.offers.clear()
            elif kind == RECONNECT:
                self.dial()
            elif kind == HEARTBEAT and not (probe := json.loads(payload))["reply"]:
                registration.send(json_frame(HEARTBEAT, id=probe["id"], reply=True))
        registration.take(self)
        if not alive:
            self.selector.unregister(registration.control)
            self.registrations.discard(registration)
            registration.close()
            self.dial()

    def register(self) -> None:
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            control.settimeout(5)
            control.connect(self.path)
            control.sendall(json_frame(HELLO, **self.hello()))
            kind, answer, fds = receive(control)
        except OSError as error:
            control.close()
            say("no answer", error=str(error))
            return self.dial(0 if self.deaf else 0.1)
        if kind == REFUSED:
            control.close()
            say("refused", **{key: answer.get(key) for key in ("code", "retry", "retryAfter")})
            return self.dial(0 if self.deaf else (answer.get("retryAfter") or 0) / 1000)
        control.setblocking(False)
        registration = Registration(control, socket.socket(fileno=fds[0]))
        self.registrations.add(registration)
        self.selector.register(control, selectors.EVENT_READ, registration)
        self.id = answer["backend"]
        registration.send(self.stats())
        say("registered", slot=answer["slot"])

    def serve(self, fd: int) -> None:
        client = socket.socket(fileno=fd)
        body = str(os.getpid())
        client.sendall(f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        try:
            while client.recv(65536):
                pass
        except OSError:
            pass
        client.close()
        self.served += 1

    def stats(self) -> bytes:
        return json_frame(STATS, adopted=self.served, closed=self.served, lag=0)

    def hello(self) -> dict:
        return {
            "protocol": 1,
            "capabilities": [],
            "service": self.service,
            "version": None,
            "weight": 1,
            "pid": os.getpid(),
            "backend": self.id,
            "sdk": "literal/1",
            "secret": None,
            "reconnect": None,
        }


def receive(control: socket.socket) -> tuple[int, dict, list[int]]:
    fds: list[int] = []

    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk, ancillary, _, _ = control.recvmsg(size - len(data), RIGHTS, socket.MSG_CMSG_CLOEXEC)
            fds.extend(descriptors(ancillary))
            if not chunk:
                raise ConnectionError("ended before an answer")
            data += chunk
        return data

    (length,) = struct.unpack("<I", exactly(4))
    body = exactly(length)
    return body[0], json.loads(body[1:]), fds


Backend(sys.argv[1], sys.argv[2], "--deaf" in sys.argv).run()
