# A service manager's end of sd_notify: binds argv[1] (a path, or @name of an abstract socket) and prints a JSON line for
# each datagram: its assignments, the sender's pid, and the time it was read (CLOCK_MONOTONIC, microseconds).
import json
import socket
import struct
import sys
import time

name = sys.argv[1]
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
receiver.bind("\0" + name[1:] if name[0] == "@" else name)
print(json.dumps({"msg": "bound"}), flush=True)
while True:
    data, control, _, _ = receiver.recvmsg(1 << 16, 64)
    said = dict(line.split("=", 1) for line in data.decode().split("\n"))
    pid, _, _ = struct.unpack("3i", control[0][2])
    print(json.dumps({"msg": "notified", "said": said, "pid": pid, "at": time.monotonic_ns() // 1000}), flush=True)
