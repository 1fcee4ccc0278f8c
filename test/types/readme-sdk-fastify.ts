// The example in packages/backend-sdk/README.md.
import Fastify from 'fastify'
import baton from '@baton/backend-sdk/fastify'

const app = Fastify()
await app.register(baton, { service: 'web', drainDeadline: '30s' })
await app.ready() // the server is Baton's
await app.baton.ready() // connections may come
process.once('SIGTERM', () => void app.close()) // drains first
