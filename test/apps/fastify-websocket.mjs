// https://github.com/fastify/fastify-websocket#usage
import { existsSync } from 'node:fs'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'

const fastify = Fastify({ logger: true })
await fastify.register(websocket)

fastify.get('/', async (request) => {
  const { remoteAddress, remotePort } = request.socket
  return `${process.pid} ${remoteAddress} ${remotePort}`
})

async function* lines() {
  yield `${process.pid}\n`
  while (!existsSync(process.env.RELEASE)) {
    await sleep(20)
    yield 'waiting\n'
  }
  yield 'end\n'
}

fastify.get('/stream', (request, reply) => reply.send(Readable.from(lines())))

fastify.get('/chat', { websocket: true }, (socket) => {
  socket.send(`${process.pid}`)
  socket.on('message', (message) => socket.send(message))
})

fastify.addHook('onClose', async () => console.log('shut down'))

process.once('SIGTERM', () => void fastify.close())

await fastify.listen({ port: process.env.PORT ?? 3000, host: '0.0.0.0' })
