// A Fastify app behind Baton: the plugin, one line after `ready`, one for SIGTERM.
import baton from '@baton/backend-sdk/fastify'
import Fastify, { LogController } from 'fastify'

// The SDK logs to `app.log`.
const app = Fastify({ logger: true, logController: new LogController({ disableRequestLogging: true }) })

// Which broker and which service come from BATON_SOCKET and BATON_SERVICE.
await app.register(baton)

app.get(
  '/',
  (request) => `Hello from process ${process.pid}. You are ${request.ip}:${request.socket.remotePort}.\n`,
)

// The server is Baton's when the app is ready. `app.listen()` is not called: the broker has the listening socket.
await app.ready()
// From here on connections may come. Without a broker this waits for one.
await app.baton.ready()

// The plugin drains before Fastify closes: no new connection, answers in flight finish, and the process ends by itself.
process.once('SIGTERM', () => void app.close())
