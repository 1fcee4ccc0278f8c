// An HTTP app like a user's, with paths that the tests need. SIGTERM drains it; the process then exits by itself.
// Its keep-alive timeout is long: Node's default of 5 s is shorter than the pauses of a test on a slow machine.
// `/wait` is answered on a line `answer` on standard input, so tests decide when, not a clock.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

const waiting = new Set()
const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://app')
  const { socket } = request
  response.setHeader('x-pid', process.pid)
  if (pathname === '/slow') {
    setTimeout(() => response.end(`slow ${process.pid}`), Number(searchParams.get('ms')))
  } else if (pathname === '/wait') {
    waiting.add(response)
    console.log(JSON.stringify({ msg: 'waiting' }))
  } else if (pathname === '/busy') {
    const end = performance.now() + Number(searchParams.get('ms'))
    while (performance.now() < end);
    response.end(`busy ${process.pid}`)
  } else if (pathname === '/whole') {
    // Answered once the whole request has been received.
    request.resume().once('end', () => response.end(`whole ${process.pid}`))
  } else if (pathname === '/exit') {
    process.exit(1)
  } else {
    response.setHeader('content-type', 'application/json')
    response.end(
      JSON.stringify({
        pid: process.pid,
        path: request.url,
        remoteAddress: socket.remoteAddress,
        remotePort: socket.remotePort,
        connection: backend.connection(socket)?.id,
      }),
    )
  }
})

server.keepAliveTimeout = 600_000

createInterface({ input: process.stdin }).on('line', () => {
  for (const response of waiting) response.end(`waited ${process.pid}`)
  waiting.clear()
})
// A drained process exits, even while standard input is open.
process.stdin.unref?.()

const backend = createBackend({ weight: Number(process.env.WEIGHT ?? 1) })
backend.attach(server)
backend.on('drain', (reason) => console.log(JSON.stringify({ msg: 'draining', reason })))
await backend.ready()
process.once('SIGTERM', () => {
  void backend
    .drain({ deadline: process.env.DRAIN_DEADLINE ?? '30s' })
    .then(() => console.log(JSON.stringify({ msg: 'drained' })))
})
console.log(JSON.stringify({ msg: 'ready', pid: process.pid, id: backend.id, slot: backend.slot }))
