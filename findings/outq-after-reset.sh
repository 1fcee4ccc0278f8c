#!/usr/bin/env bash
# After a reset, SIOCOUTQ keeps reporting bytes that will never be sent, so a drain that waits for 0 does not end.
#
# Expected: the send queue (SIOCOUTQ) goes to 0 when all has been sent or the connection is gone, so that a program may
#   wait for 0 before it closes a socket or exits.
# Seen: after the peer's reset the buffers are freed (SO_MEMINFO counts 0), and SIOCOUTQ and SIOCOUTQNSD stay at their
#   last values as long as the socket is open. poll() has reported the reset by then. On a Unix socket the same call
#   counts memory, 768 for 100 bytes that the peer has not read, and says 0 after the peer has closed without reading
#   them. On TCP, bytes that the peer's kernel has taken are not counted, although its program may never read them.
# Why it matters: a broker that polls the queue of a connection before it gives up its copy waits without end for a
#   client that has gone, and takes unread input for delivered on Unix sockets. Ask for the state of the connection
#   (poll, TCP_INFO) too, and set a deadline.
# Documentation: tcp(7) calls the value the amount of unsent data in the socket send queue, and mentions only that the
#   socket must not be listening. unix(7) describes SIOCINQ and not SIOCOUTQ.
# Versions: the kernel and the Python that the first line names.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1-2), $(python3 --version)"
cat > queue.py <<'PY'
import fcntl, select, socket, struct, time
SIOCOUTQ, SIOCOUTQNSD, SO_MEMINFO, TCP_INFO = 0x5411, 0x894B, 55, socket.TCP_INFO
def ask(sock, request):
    return struct.unpack('i', fcntl.ioctl(sock, request, bytes(4)))[0]
def pair():
    with socket.create_server(('127.0.0.1', 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    return near, far
def fill(near):
    sent = 0
    try:
        while True:
            sent += near.send(bytes(65536))
    except BlockingIOError:
        return sent
def show(label, near):
    queued = struct.unpack('9I', near.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[5] # SK_MEMINFO_WMEM_QUEUED
    state = {1: 'established', 4: 'FIN sent', 5: 'FIN sent', 7: 'closed'}[near.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 1)[0]]
    count = lambda value: 'more than 0' if value else '0'
    print(f'{label}: SIOCOUTQ {count(ask(near, SIOCOUTQ))}, SIOCOUTQNSD {count(ask(near, SIOCOUTQNSD))}, memory {count(queued)}, {state}')
def until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
def hung_up(near):
    poll = select.poll()
    poll.register(near, 0)
    return bool(poll.poll(0))

near, far = pair()
near.send(b'x' * 100)
until(lambda: ask(near, SIOCOUTQ) == 0)
show('tcp, 100 bytes that the peer has not read', near)
near, far = pair()
sent = fill(near)
show('tcp, full', near)
far.setblocking(True)
while sent:
    sent -= len(far.recv(1 << 20))
until(lambda: ask(near, SIOCOUTQ) == 0)
show('tcp, the peer has read everything', near)
near, far = pair()
fill(near)
far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
far.close()
until(lambda: hung_up(near))
before = ask(near, SIOCOUTQ)
show('tcp, reset by the peer', near)
time.sleep(3)
print('the same 3 s later:', ask(near, SIOCOUTQ) == before)
near, far = socket.socketpair()
near.send(b'x' * 100)
print('unix, 100 bytes that the peer has not read: SIOCOUTQ', 'more than 100' if ask(near, SIOCOUTQ) > 100 else ask(near, SIOCOUTQ))
far.close()
print('unix, the peer has closed without reading them: SIOCOUTQ', ask(near, SIOCOUTQ))
PY
out=$(timeout 60 python3 queue.py || true)
printf '%s\n' "$out"
recorded='tcp, 100 bytes that the peer has not read: SIOCOUTQ 0, SIOCOUTQNSD 0, memory 0, established
tcp, full: SIOCOUTQ more than 0, SIOCOUTQNSD more than 0, memory more than 0, established
tcp, the peer has read everything: SIOCOUTQ 0, SIOCOUTQNSD 0, memory 0, established
tcp, reset by the peer: SIOCOUTQ more than 0, SIOCOUTQNSD more than 0, memory 0, closed
the same 3 s later: True
unix, 100 bytes that the peer has not read: SIOCOUTQ more than 100
unix, the peer has closed without reading them: SIOCOUTQ 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
