// https://fastify.dev/docs/latest/Guides/Getting-Started/
import Fastify from 'fastify'

const fastify = Fastify({ logger: true })

fastify.get('/', async (request) => {
  const { remoteAddress, remotePort } = request.socket
  return `${process.pid} ${remoteAddress} ${remotePort}`
})

try {
  await fastify.listen({ port: process.env.PORT ?? 3000, host: '0.0.0.0' })
} catch (err) {
  fastify.log.error(err)
  process.exit(1)
}
