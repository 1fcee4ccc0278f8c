#!/usr/bin/env bash
# A descriptor sent with no data: lost without an error on a stream, and like EOF on seqpacket.
#
# Expected: sendmsg() with a descriptor and no byte is refused, or the descriptor arrives.
# Seen: on a stream Unix socket it returns 0 with no error and nothing arrives. On a seqpacket socket the
#   descriptor arrives with 0 bytes, so recv() returns 0 exactly as at the end, and the descriptor is lost if
#   the reader used recv() or took the 0 for the end. One byte of data fixes both.
# Why it matters: both forms silently lose a client's connection: the sender closes its copy after a
#   "successful" send. Always send at least one byte, and check for control data before taking 0 bytes for the
#   end.
# Documentation: unix(7) says that a stream needs a byte of real data to carry ancillary data; it does not say
#   that the call succeeds without it.
# Versions: the kernel and the Python that the first line names.
set -euo pipefail
for program in python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1-2), $(python3 --version)"
cat > empty.py <<'PY'
import array, os, socket
def rights(fd):
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))]
def attempt(kind, data, reader):
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    client, passed = socket.socketpair()
    sent = near.sendmsg([data], rights(passed.fileno()))
    passed.close()
    far.settimeout(0.3)
    try:
        if reader == 'recv':
            result = f'recv() returns {len(far.recv(10))}'
        else:
            got, control, _, _ = far.recvmsg(10, socket.CMSG_SPACE(4))
            result = f'recvmsg() returns {len(got)} and {len(control)} descriptor'
    except TimeoutError:
        result = 'nothing arrives'
    client.settimeout(0.3)
    try:
        client.recv(1)
        state = 'closed'
    except TimeoutError:
        state = 'open'
    return f'sendmsg() returns {sent}, {result}, the passed socket is {state}'
stream, packet = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
print('stream, empty:', attempt(stream, b'', 'recvmsg'))
print('stream, one byte:', attempt(stream, b'x', 'recvmsg'))
print('seqpacket, empty:', attempt(packet, b'', 'recvmsg'))
print('seqpacket, empty, plain recv:', attempt(packet, b'', 'recv'))
near, far = socket.socketpair(socket.AF_UNIX, packet)
near.close()
print('seqpacket, the end: recv() returns', len(far.recv(10)))
PY
out=$(timeout 20 python3 empty.py || true)
printf '%s\n' "$out"
recorded='stream, empty: sendmsg() returns 0, nothing arrives, the passed socket is closed
stream, one byte: sendmsg() returns 1, recvmsg() returns 1 and 1 descriptor, the passed socket is open
seqpacket, empty: sendmsg() returns 0, recvmsg() returns 0 and 1 descriptor, the passed socket is open
seqpacket, empty, plain recv: sendmsg() returns 0, recv() returns 0, the passed socket is closed
seqpacket, the end: recv() returns 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
