// An HTTP app as a user writes it, with paths for what the tests look at. SIGTERM drains; the process then ends by itself.
// An idle connection is kept for long: Node's 5 s are over between two requests of a test on a slow machine.
// The answers to `/wait` are due when a line `answer` comes on standard input: a test says when, no clock does.
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
    // Its answer comes when the client has sent all of its request.
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
// A process that has drained ends, whether or not somebody may still say something.
process.stdin.unref?.()

const backend = createBackend({ weight: Number(process.env.WEIGHT ?? 1) })
backend.attach(server)
backend.on('drain', (reason) => console.log(JSON.stringify({ msg: 'draining', reason })))
await backend.ready()
console.log(JSON.stringify({ msg: 'ready', pid: process.pid, id: backend.id, slot: backend.slot }))
process.once('SIGTERM', () => {
  void backend
    .drain({ deadline: process.env.DRAIN_DEADLINE ?? '30s' })
    .then(() => console.log(JSON.stringify({ msg: 'drained' })))
})
