// An app of Fastify with @fastify/websocket, whose connections do not move. GOODBYE: the close code of a `preClose` of its own.
// `/slow` is answered on a command on stdin. WITHOUT_BATON: it listens itself. AT_DRAIN: it also closes when the operator drains it.
import baton from '@baton/backend-sdk/fastify'
import websocket from '@fastify/websocket'
import Fastify from 'fastify'

const say = (msg, more = {}) => console.log(JSON.stringify({ msg, pid: process.pid, ...more }))
const { GOODBYE, WITHOUT_BATON, AT_DRAIN } = process.env

const app = Fastify({ forceCloseConnections: false })
if (WITHOUT_BATON === undefined) await app.register(baton, { drainDeadline: '10h', logger: false })
await app.register(websocket, {
  ...(GOODBYE !== undefined && {
    preClose(done) {
      for (const client of this.websocketServer.clients) client.close(Number(GOODBYE), 'bye')
      done()
    },
  }),
})
app.addHook('onClose', () => say('closed'))
app.get('/chat', { websocket: true }, (ws) => ws.on('message', (data) => ws.send(data, { binary: false })))
app.get('/slow', (request, reply) => {
  process.stdin.once('data', () => {
    process.stdin.destroy()
    reply.send('late')
  })
  say('asked')
  return reply
})
process.once('SIGTERM', () => void app.close())

if (WITHOUT_BATON === undefined) {
  await app.ready()
  if (AT_DRAIN !== undefined) app.baton.once('drain', () => void app.close())
  await app.baton.ready()
  say('ready')
} else {
  await app.listen({ port: 0, host: '127.0.0.1' })
  say('ready', { port: app.server.address().port })
}
