# A service manager's end of sd_notify: binds argv[1] (a path, or @name of an abstract socket) and prints a JSON line for
# each datagram: its assignments, the sender's pid, and the time it was read (CLOCK_MONOTONIC, microseconds). It keeps up to
# argv[2] descriptors (default: none), in the order in which they came. A line "pause" on its standard input stops it from reading until "go";
# "list" prints the names of what it keeps.
import array
import json
import os
import select
import socket
import struct
import sys
import time

name = sys.argv[1]
limit = int(sys.argv[2]) if len(sys.argv) > 2 else 0
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
receiver.bind("\0" + name[1:] if name[0] == "@" else name)
kept = []


def say(**message):
    print(json.dumps(message), flush=True)


def receive():
    data, control, _, _ = receiver.recvmsg(1 << 16, 4096)
    said = dict(line.split("=", 1) for line in data.decode().split("\n"))
    fds = array.array("i")
    for level, kind, content in control:
        if kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        elif kind == socket.SCM_CREDENTIALS:
            pid = struct.unpack("3i", content)[0]
    if "FDSTORE" in said and len(kept) < limit:
        kept.extend((said["FDNAME"], fd) for fd in fds)
        fds = []
    for fd in fds:
        os.close(fd)
    if "FDSTOREREMOVE" in said:
        for each in [each for each in kept if each[0] == said["FDNAME"]]:
            kept.remove(each)
            os.close(each[1])
    about = {"FDSTORE", "FDSTOREREMOVE", "BARRIER"} & set(said)
    say(msg="stored" if about else "notified", said=said, pid=pid, at=time.monotonic_ns() // 1000)


say(msg="bound")
reading = True
while True:
    ready, _, _ = select.select([sys.stdin.fileno()] + ([receiver] if reading else []), [], [])
    if receiver in ready:
        receive()
        continue
    # Unbuffered: a second line must not wait in this process.
    for line in os.read(sys.stdin.fileno(), 4096).decode().splitlines() or sys.exit(0):
        if line == "list":
            say(msg="list", names=[each[0] for each in kept])
        reading = line != "pause" if line in ("pause", "go") else reading
