// A Fastify app behind Baton: the plugin, two lines to get ready, and one for SIGTERM.
import baton from '@baton/backend-sdk/fastify'
import Fastify, { LogController } from 'fastify'

// The SDK logs to `app.log`.
const app = Fastify({ logger: true, logController: new LogController({ disableRequestLogging: true }) })

// BATON_SOCKET and BATON_SERVICE name the broker and the service.
await app.register(baton)

app.get(
  '/',
  (request) => `Hello from process ${process.pid}. You are ${request.ip}:${request.socket.remotePort}.\n`,
)

// Attaches the server. `app.listen()` is not called: the broker has the listening socket.
await app.ready()
// Once this resolves, connections may arrive. Without a broker it waits for one.
await app.baton.ready()

// The plugin drains before Fastify closes: no more connections, current requests finish, and the process exits by itself.
process.once('SIGTERM', () => void app.close())
