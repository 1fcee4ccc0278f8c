// The app that is deployed again and again: it knows nothing of what it runs under, but ends as each of them asks it to.
import Fastify from 'fastify'

const app = Fastify({ forceCloseConnections: false })
app.get('/', () => ({ pid: process.pid }))
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })
// PM2 waits for it when it is told to, and then ends the process before this one with SIGINT.
process.send?.('ready')
process.once('SIGINT', () => void app.close().then(() => process.exit(0)))
