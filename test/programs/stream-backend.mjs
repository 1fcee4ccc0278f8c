// An HTTP app with long responses: a digest of the upload, an upload that is never read, a download, server-sent events, WebSockets.
import { createHash, randomBytes } from 'node:crypto'
import http from 'node:http'
import { pipeline } from 'node:stream/promises'
import { createBackend } from '@baton/backend-sdk'
import { WebSocketServer } from 'ws'

const MIB = 1024 * 1024
const block = randomBytes(MIB)
const events = new Set()

/** Blocks that differ only in their number, so that a lost, doubled or moved one is detected. */
function* numbered(mebibytes, digest) {
  for (let number = 0; number < mebibytes; number++) {
    const stamp = Buffer.from(String(number).padStart(8, '0'))
    for (const part of [stamp, block.subarray(stamp.length)]) {
      digest.update(part)
      yield part
    }
  }
}

const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://app')
  response.setHeader('x-pid', process.pid)
  if (pathname === '/upload') void digestOf(request).then((digest) => response.end(JSON.stringify(digest)))
  else if (pathname === '/unread') response.flushHeaders()
  else if (pathname === '/download')
    // Fails if the client leaves before the end.
    download(Number(searchParams.get('mebibytes')), response).catch(() => response.destroy())
  else if (pathname === '/events') subscribe(response)
  else response.end('ok')
})

// Node's default of 5 s is shorter than the pauses of a test on a slow machine.
server.keepAliveTimeout = 600_000

async function digestOf(request) {
  const digest = createHash('sha256')
  let bytes = 0
  for await (const chunk of request) {
    bytes += chunk.length
    digest.update(chunk)
  }
  return { bytes, sha256: digest.digest('hex') }
}

/** The digest is only known after the last byte, so it is a trailer. */
async function download(mebibytes, response) {
  const digest = createHash('sha256')
  response.setHeader('trailer', 'x-sha256')
  await pipeline(numbered(mebibytes, digest), response, { end: false })
  response.addTrailers({ 'x-sha256': digest.digest('hex') })
  response.end()
}

function subscribe(response) {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write(': open\n\n')
  events.add(response)
  response.on('close', () => {
    events.delete(response)
    console.log(JSON.stringify({ msg: 'events closed' }))
  })
}

const sockets = new WebSocketServer({ server })
sockets.on('connection', (socket, request) => {
  const { remoteAddress, remotePort } = request.socket
  socket.send(JSON.stringify({ pid: process.pid, remoteAddress, remotePort }))
  socket.on('message', (data, isBinary) => {
    if (!isBinary && Buffer.from(data).toString() === 'leave') socket.close(4001, 'asked to')
    else socket.send(data, { binary: isBinary })
  })
  socket.on('close', (code, reason) =>
    console.log(JSON.stringify({ msg: 'websocket closed', code, reason: reason.toString() })),
  )
})

// Each line on standard input is one event for every client.
process.stdin.setEncoding('utf8')
process.stdin.on('data', (text) => {
  for (const line of text.trim().split('\n'))
    for (const response of events) response.write(`data: ${line}\n\n`)
})

const backend = createBackend()
backend.attach(server)
await backend.ready()
console.log(JSON.stringify({ msg: 'ready', pid: process.pid }))
