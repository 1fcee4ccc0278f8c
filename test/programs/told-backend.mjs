// An app that does what stdin tells it, one word a line: `answer` ends the responses to `/wait`, `block` keeps the event
// loop for a while, `drain` and `close` do that to its backend. FAULT names the event whose listener throws: `connection` of its server, or one of its backend's own.
// An exception that nobody caught is said aloud, and the process goes on, as many a service in production has it.
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

const BLOCK = 1500

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))
process.on('uncaughtException', (error) => say('uncaught', { message: error.message }))

const waiting = new Set()
const server = http.createServer((request, response) => {
  response.setHeader('x-pid', process.pid)
  if (request.url === '/wait') waiting.add(response)
  else response.end(JSON.stringify({ pid: process.pid }))
})

// Node's own 5 s are over between two requests of a test on a slow machine.
server.keepAliveTimeout = 600_000

const backend = createBackend()
backend.attach(server)
backend.on('connected', ({ id }) => say('connected', { id }))
backend.on('disconnected', () => say('disconnected'))
backend.on('adopt', () => say('adopt'))
backend.on('drain', () => {
  say('draining')
  // As an app does whose one handler serves the operator's drain and its own.
  void backend.drain()
})

const { FAULT: fault } = process.env
if (fault !== undefined) {
  const emitter = fault === 'connection' ? server : backend
  const fail = () => {
    throw new Error(`a bug in a ${fault} listener`)
  }
  // Each time it registers; of connections only the first, so that there is something to see in the others.
  if (fault === 'connected') emitter.on(fault, fail)
  else emitter.prependOnceListener(fault, fail)
}

function block() {
  say('blocking')
  for (const end = performance.now() + BLOCK; performance.now() < end;);
}

await backend.ready()
say('ready')
for await (const word of createInterface({ input: process.stdin })) {
  if (word === 'answer') for (const response of waiting) response.end('waited')
  else if (word === 'block') block()
  else if (word === 'drain') void backend.drain({ deadline: process.env.DRAIN_DEADLINE })
  else if (word === 'close') await backend.close()
  say(`did ${word}`)
}
