// https://hono.dev/docs/getting-started/nodejs
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { serve } from '@hono/node-server'
import { getConnInfo } from '@hono/node-server/conninfo'
import { Hono } from 'hono'
import { streamText } from 'hono/streaming'

const app = new Hono()

app.get('/', (c) => {
  const { remote } = getConnInfo(c)
  return c.text(`${process.pid} ${remote.address} ${remote.port}`)
})

app.get('/stream', (c) =>
  streamText(c, async (stream) => {
    await stream.writeln(`${process.pid}`)
    while (!existsSync(process.env.RELEASE)) {
      await sleep(20)
      await stream.writeln('waiting')
    }
    await stream.writeln('end')
  }),
)

const server = serve({ fetch: app.fetch, port: Number(process.env.PORT ?? 3000) })

process.on('SIGTERM', () => {
  server.close((error) => {
    if (error) process.exit(1)
    console.log('shut down')
    process.exit(0)
  })
})
