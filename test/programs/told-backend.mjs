// An app controlled by one command per line on stdin: `answer` ends the responses to `/wait`, `block` blocks the event
// loop for a while, `break-destroy` lets `destroy()` of each socket throw, `break-adopt` the next listener of `adopt`,
// `give-away` sends the first connection to another process, `close-server` closes the server, `drain` and `close` do that to its backend. FAULT names the event whose listener throws: `connection` of its server, or one of its backend's own.
// HEADERS_TIMEOUT (ms) is its server's.
// Uncaught exceptions are printed, and the process continues, like many production services.
import { spawn } from 'node:child_process'
import http from 'node:http'
import { createInterface } from 'node:readline'
import { createBackend } from '@baton/backend-sdk'

const BLOCK = 1500

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))
process.on('uncaughtException', (error) => say('uncaught', { message: error.message }))

const waiting = new Set()
const sockets = new Set()
const { HEADERS_TIMEOUT: headersTimeout } = process.env
const limits =
  headersTimeout === undefined
    ? {}
    : { headersTimeout: Number(headersTimeout), connectionsCheckingInterval: 20 }
const server = http.createServer(limits, (request, response) => {
  response.setHeader('x-pid', process.pid)
  if (request.url === '/wait') {
    waiting.add(response)
    say('waiting')
  } else response.end(JSON.stringify({ pid: process.pid }))
})

server.on('connection', (socket) => sockets.add(socket))
// Node's default of 5 s is shorter than the pauses of a test on a slow machine.
server.keepAliveTimeout = 600_000

const backend = createBackend()
backend.attach(server)
backend.on('connected', ({ id }) => say('connected', { id }))
backend.on('disconnected', () => say('disconnected'))
backend.on('adopt', (socket) => say('adopt', { given: sockets.has(socket) }))
backend.on('drain', () => {
  say('draining')
  // Like an app with one handler for the operator's drain and its own.
  void backend.drain()
})

const { FAULT: fault } = process.env
if (fault !== undefined) {
  const emitter = fault === 'connection' ? server : backend
  const fail = () => {
    throw new Error(`a bug in a ${fault} listener`)
  }
  // On every registration; for connections only on the first, so that the others can be observed.
  if (fault === 'connected') emitter.on(fault, fail)
  else emitter.prependOnceListener(fault, fail)
}

function breakDestroy() {
  for (const socket of sockets)
    socket.destroy = () => {
      throw new Error('a bug in destroy')
    }
}

function breakAdopt() {
  backend.prependOnceListener('adopt', () => {
    throw new Error('a bug in adopt')
  })
}

/** The first connection, to another process. */
function giveAway() {
  const [socket] = sockets
  const child = spawn(process.execPath, ['-e', ''], { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] })
  child.send({}, socket, () => undefined)
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
  else if (word === 'break-destroy') breakDestroy()
  else if (word === 'give-away') giveAway()
  else if (word === 'break-adopt') breakAdopt()
  else if (word === 'close-server') server.close()
  else if (word === 'drain') void backend.drain({ deadline: process.env.DRAIN_DEADLINE })
  else if (word === 'close') await backend.close()
  say(`did ${word}`)
}
