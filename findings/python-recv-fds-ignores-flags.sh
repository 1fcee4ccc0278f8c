#!/usr/bin/env bash
# Python's socket.recv_fds() ignores its flags.
#
# Expected: recv_fds(sock, size, maxfds, flags) passes the flags to recvmsg, so MSG_CMSG_CLOEXEC makes the
#   descriptors close-on-exec and MSG_DONTWAIT makes the call return at once.
# Seen: in Python 3.11 neither works. The descriptor is inherited by exec, which Python's own descriptors are
#   not, and the call waits. sock.recvmsg() with the same flags does both.
# Why it matters: a received client socket leaks into every program that the receiver starts with
#   close_fds=False (or os.exec), and stays open there after the receiver has closed it: the client never sees
#   the end.
# Documentation: the socket module lists flags as a parameter and refers to recvmsg() for the meaning of the
#   parameters. PEP 446 says that new descriptors are not inheritable.
# Versions: Python 3.11.7.
set -euo pipefail
for program in python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 --version
cat > flags.py <<'PY'
import array, os, socket, struct
left, right = socket.socketpair()
passed, _ = os.pipe()
def inherited(fd):
    return 'inherited by exec' if os.get_inheritable(fd) else 'close-on-exec'
flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
right.settimeout(None)
socket.send_fds(left, [b'x'], [passed])
_, fds, _, _ = socket.recv_fds(right, 1, 1, flags)
print('recv_fds with MSG_CMSG_CLOEXEC:', inherited(fds[0]))
socket.send_fds(left, [b'x'], [passed])
_, control, _, _ = right.recvmsg(1, socket.CMSG_LEN(4), flags)
print('recvmsg with MSG_CMSG_CLOEXEC:', inherited(struct.unpack('i', control[0][2])[0]))
# Nothing is queued now. A helper writes one byte after 300 ms, so that a waiting call ends.
for name, call in (('recvmsg', lambda: right.recvmsg(1, socket.CMSG_LEN(4), flags)),
                   ('recv_fds', lambda: socket.recv_fds(right, 1, 1, flags))):
    child = os.fork()
    if child == 0:
        import time
        time.sleep(0.3)
        left.send(b'y')
        os._exit(0)
    try:
        call()
        result = 'waits for the next message'
    except BlockingIOError:
        result = 'BlockingIOError at once'
    os.waitpid(child, 0)
    print(f'{name} with MSG_DONTWAIT: {result}')
    if name == 'recvmsg':
        right.recv(1)
PY
out=$(timeout 20 python3 flags.py || true)
printf '%s\n' "$out"
recorded='recv_fds with MSG_CMSG_CLOEXEC: inherited by exec
recvmsg with MSG_CMSG_CLOEXEC: close-on-exec
recvmsg with MSG_DONTWAIT: BlockingIOError at once
recv_fds with MSG_DONTWAIT: waits for the next message'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
