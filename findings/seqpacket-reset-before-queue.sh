#!/usr/bin/env bash
# On a SOCK_SEQPACKET Unix socket, ECONNRESET comes before the messages that are still queued.
#
# Expected: data that the peer sent before it closed is read first; an error or the end follows.
# Seen: that is so on stream Unix sockets and on TCP. If the peer of a seqpacket socket closed with unread input
#   of its own, the first receive fails with ECONNRESET and the following ones deliver the queue, then the end.
#   Without unread input there is no error.
# Why it matters: seqpacket carries descriptors and keeps message boundaries. A receiver that closes at the
#   first ECONNRESET discards messages, and with them the descriptors of clients. After ECONNRESET, keep
#   receiving until the end.
# Documentation: unix(7) gives ECONNRESET for a peer that closed with unread data, but does not specify the
#   order. socket(7) calls seqpacket reliable and ordered.
# Versions: the kernel and the Python that the first line names.
set -euo pipefail
for program in python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1-2), $(python3 --version)"
cat > reset.py <<'PY'
import os, socket, time
def tcp():
    listener = socket.create_server(('127.0.0.1', 0))
    near = socket.create_connection(listener.getsockname())
    return near, listener.accept()[0]
def receive(pair, unread):
    near, far = pair
    if unread:
        near.send(b'unread')
    far.send(b'one ')
    far.send(b'two')
    time.sleep(0.1)
    far.close()
    time.sleep(0.1)
    near.settimeout(1)
    seen = []
    while len(seen) < 6 and (not seen or seen[-1] != 'end'):
        try:
            data = near.recv(100)
            seen.append(repr(data.decode()) if data else 'end')
        except ConnectionResetError:
            seen.append('ECONNRESET')
    return ', '.join(seen)
for unread in (False, True):
    state = 'unread input' if unread else 'nothing unread'
    print(f'seqpacket, {state}:', receive(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), unread))
    print(f'stream, {state}:', receive(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM), unread))
    print(f'tcp, {state}:', receive(tcp(), unread))
PY
out=$(timeout 20 python3 reset.py || true)
printf '%s\n' "$out"
recorded="seqpacket, nothing unread: 'one ', 'two', end
stream, nothing unread: 'one two', end
tcp, nothing unread: 'one two', end
seqpacket, unread input: ECONNRESET, 'one ', 'two', end
stream, unread input: 'one two', ECONNRESET, end
tcp, unread input: 'one two', ECONNRESET, end"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
