#!/usr/bin/env bash
# Clients that have connected to a listener with TCP_DEFER_ACCEPT, and said nothing yet, are reset when it closes.
#
# Expected: a process that accepts until EAGAIN before it closes its listener leaves no client behind.
# Seen: accept() does not deliver a client that has sent nothing, although its connect() has returned. When the listener
#   closes, the client is not told; its request is then answered with a reset. A second listener on the port, with
#   SO_REUSEPORT, does not get it, unless the sysctl net.ipv4.tcp_migrate_req is set (it is 0 by default). If another
#   process holds the same listener, the client is served by it. Without the option accept() delivers such clients.
# Why it matters: nginx ("deferred"), Apache, HAProxy ("defer-accept") and systemd (DeferAcceptSec=) set the option, and what
#   inherits their listener keeps it. Clients that connect ahead of their request, as browsers and pools do, fail at each
#   restart. Pass the listener itself on.
# Documentation: tcp(7) says that the listener is woken up when data arrives, and nothing of a close.
# Versions: the kernel that the first line names.
set -euo pipefail
command -v python3 >/dev/null || { echo "needs python3"; exit 2; }
[ "$(cat /proc/sys/net/ipv4/tcp_migrate_req)" = 0 ] || { echo "needs net.ipv4.tcp_migrate_req to be 0"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo "Linux $(uname -r | cut -d. -f1-2)"
cat > drain.py <<'PY'
import select, socket
def listen(port, defer):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, defer)
    listener.bind(('127.0.0.1', port))
    listener.listen()
    return listener
def accept_all(listener):
    listener.setblocking(False)
    accepted = []
    try:
        while True:
            accepted.append(listener.accept()[0])
    except BlockingIOError:
        return accepted
def speak(client, successor):
    try:
        client.sendall(b'request')
        poll = select.poll()
        poll.register(client, select.POLLIN)
        if successor is not None:
            poll.register(successor, select.POLLIN)
        ready = poll.poll(20_000)
        if successor is not None and ready[0][0] == successor.fileno():
            return 'served by the successor'
        client.settimeout(20)
        return 'ended' if client.recv(1) == b'' else 'odd'
    except ConnectionResetError:
        return 'reset'
def probe(name, defer, succeed=lambda port, listener: None):
    listener = listen(0, defer)
    address = listener.getsockname()
    speaking = socket.create_connection(address)
    speaking.sendall(b'request')
    silent = socket.create_connection(address)
    select.select([listener], [], [], 20)
    accepted = accept_all(listener)
    successor = succeed(address[1], listener)
    listener.close()
    peers = [connection.getpeername() for connection in accepted]
    fate = 'accepted' if silent.getsockname() in peers else speak(silent, successor)
    spoken = 'accepted' if speaking.getsockname() in peers else 'left'
    print(f'{name}: client that has spoken {spoken}, silent client {fate}')
probe('plain', 0)
probe('deferred', 30)
probe('deferred, a successor with SO_REUSEPORT', 30, lambda port, _: listen(port, 30))
probe('deferred, the same listener held by a successor', 30, lambda _, listener: listener.dup())
PY
out=$(timeout 120 python3 drain.py || true)
printf '%s\n' "$out"
recorded='plain: client that has spoken accepted, silent client accepted
deferred: client that has spoken accepted, silent client reset
deferred, a successor with SO_REUSEPORT: client that has spoken accepted, silent client reset
deferred, the same listener held by a successor: client that has spoken accepted, silent client served by the successor'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
