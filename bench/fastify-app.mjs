// The app that is deployed repeatedly. It does not know what it runs under, but ends the way each of them expects.
import Fastify from 'fastify'

const app = Fastify({ forceCloseConnections: false })
app.get('/', () => ({ pid: process.pid }))
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1' })
// With --wait-ready, PM2 waits for this message, then ends the previous process with SIGINT.
process.send?.('ready')
process.once('SIGINT', () => void app.close().then(() => process.exit(0)))
