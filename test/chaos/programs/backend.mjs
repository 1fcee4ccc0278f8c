// A backend of three services that records everything before acting on it, and misbehaves on command.
//
// The journal is appended to with write(2), so records outlive a SIGKILL. One line each:
//   a TIME SERVICE PORT VIA CONNECTION   adopted, from the client's port
//   m TIME SERVICE PORT CONNECTION       handed back: it goes on in another process
//   u TIME SERVICE PORT CONNECTION       a relay has ended without a byte from the client
//   r TIME SERVICE PORT ID               read the request ID
import { subscribe } from 'node:diagnostics_channel'
import { closeSync, openSync, writeSync } from 'node:fs'
import http from 'node:http'
import net from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { createBackend } from '@baton/backend-sdk'
import { WebSocketServer } from 'ws'
import { now } from '../clock.mjs'
import { content } from '../content.mjs'

const { CHAOS_INSTANCE: instance, CHAOS_JOURNAL: journalPath, CHAOS_DEADLINE: deadline } = process.env
const journal = openSync(journalPath, 'a')
/** Delay of every response, in milliseconds. */
let delay = 0

function note(...words) {
  writeSync(journal, `${words.join(' ')}\n`)
}

function received(service, socket, id) {
  note('r', now(), service, socket.remotePort ?? 0, id)
}

function webServer(service) {
  // Only a backend that drains or dies closes an idle connection; any other close that a client sees is a finding.
  const server = http.createServer({ keepAliveTimeout: 0 }, (request, response) => {
    const [, what, id, size] = request.url.split('/')
    received(service, request.socket, id)
    if (what === 'download') void download(Number(id), Number(size), response)
    else if (delay === 0) response.end(`${id} ${instance}\n`)
    else setTimeout(() => response.end(`${id} ${instance}\n`), delay)
  })
  new WebSocketServer({ server, perMessageDeflate: false }).on('connection', (socket, request) => {
    socket.on('error', () => {})
    // One frame, and so one Buffer.
    socket.on('message', (/** @type {Buffer} */ data) => {
      const message = data.toString()
      received(service, request.socket, message.split(' ')[0])
      setTimeout(() => socket.send(`${message} ${instance}`), delay)
    })
  })
  return server
}

/** Chunks of many sizes, with pauses, so that faults hit half-sent responses. */
async function download(id, size, response) {
  response.setHeader('x-instance', instance)
  for (let offset = 0, step = 1; offset < size && !response.destroyed; step++) {
    const length = Math.min(size - offset, (step * 7919) % 16_384)
    response.write(content(id, offset, length))
    offset += length
    if (step % 4 === 0) await pause(10 + delay)
  }
  response.end()
}

/** One line and the client's FIN; answered with a line and a FIN. */
function lineServer(service) {
  return net.createServer({ allowHalfOpen: true }, (socket) => {
    let text = ''
    socket.on('error', () => {})
    socket.setEncoding('latin1').on('data', (chunk) => {
      text += chunk
    })
    socket.on('end', () => {
      const [id, rest = ''] = text.split(' ')
      // The client left in the middle of a line.
      if (!/^\d+$/.test(id)) return socket.end()
      received(service, socket, id)
      setTimeout(() => socket.end(`${id} ${instance} ${rest.length}\n`), delay)
      return undefined
    })
  })
}

const servers = { web: webServer('web'), carried: webServer('carried'), lines: lineServer('lines') }
/** Notes on sockets whose adoption is in the journal. */
const adopted = new WeakMap()
// In the step in which it leaves: by the time its socket has closed, this process may have been killed, or the worker that has taken it.
subscribe('baton:connection:handed-back', ({ socket }) => {
  const noted = adopted.get(socket)
  if (noted !== undefined) note('m', now(), ...noted)
})

const backends = Object.entries(servers).map(([service, server]) => {
  const backend = createBackend({ service, version: instance })
  backend.attach(server)
  backend.on('adopt', (socket, connection) => {
    const { id, via } = connection
    const port = socket.remotePort ?? 0
    note('a', now(), service, port, via, id)
    adopted.set(socket, [service, port, id])
    const before = socket.bytesRead
    socket.once('close', () => {
      if (via === 'relay' && socket.bytesRead === before) note('u', now(), service, port, id)
    })
  })
  return backend
})

/** Backends that have not drained: once all three have, only the channel keeps this process alive. */
let left = backends.length
for (const backend of backends) {
  backend.on('drain', () => process.nextTick(leave, backend))
}
async function leave(backend) {
  await backend.drain()
  left -= 1
  if (left === 0) process.disconnect()
}
process.once('SIGTERM', () => {
  for (const backend of backends) void backend.drain({ deadline: Number(deadline) })
})

const misbehaviour = {
  'one connection': (lasts) => {
    for (const server of Object.values(servers)) server.maxConnections = 1
    setTimeout(() => {
      for (const server of Object.values(servers)) server.maxConnections = undefined
    }, lasts)
  },
  'slow answers': (lasts) => {
    delay = 200
    setTimeout(() => {
      delay = 0
    }, lasts)
  },
  'busy loop': (lasts) => {
    for (const end = performance.now() + lasts; performance.now() < end;);
  },
  'descriptor leak': (lasts) => {
    const leaked = []
    const leak = () => {
      try {
        for (;;) leaked.push(openSync('/dev/null'))
      } catch (error) {
        if (error.code !== 'EMFILE') throw error
      }
    }
    leak()
    // The descriptors of connections that end are leaked as well.
    const timer = setInterval(leak, 20)
    setTimeout(() => {
      clearInterval(timer)
      for (const fd of leaked) closeSync(fd)
    }, lasts)
  },
}
process.on('message', ({ kind, lasts }) => misbehaviour[kind](lasts))
process.on('disconnect', () => {
  // Not drained: the supervisor is gone, and with it the run.
  if (left > 0) process.exit(1)
})

await Promise.all(backends.map((backend) => backend.ready()))
process.send('ready')
