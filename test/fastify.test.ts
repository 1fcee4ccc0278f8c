import { once } from 'node:events'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket } from 'ws'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { ask } from './support/app-run.ts'
import { LIMIT } from './support/limits.ts'
import { Program, root } from './support/process.ts'

// How an app of Fastify closes, behind a broker and by itself.

const PROGRAM = 'fastify-goodbye-backend.mjs'

/** Opens a WebSocket; `closed` is the code that the client sees. */
async function chat(
  t: Test,
  port: number,
): Promise<{ echo: () => Promise<string>; closed: Promise<number> }> {
  const ws = new WebSocket(`ws://127.0.0.1:${port}/chat`)
  t.teardown(() => ws.terminate())
  const closed = once(ws, 'close').then(([code]) => Number(code))
  await once(ws, 'open')
  const echo = async () => {
    ws.send('hello')
    return String((await once(ws, 'message'))[0])
  }
  return { echo, closed }
}

// WebSockets were cut at the drain deadline (1006), because the drain waited for them before Fastify ran the plugin's `preClose`.
void t.test('@fastify/websocket says goodbye as it does without Baton', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t)
  for (const goodbye of [undefined, '1001']) {
    const env = goodbye === undefined ? {} : { GOODBYE: goodbye }
    await t.test(goodbye ?? 'its own', async (t) => {
      const alone = new Program(t, process.execPath, [join(root, 'test/programs', PROGRAM)], {
        env: { ...env, WITHOUT_BATON: '1' },
      })
      const { port } = await alone.message('ready')
      const control = await chat(t, Number(port))
      t.equal(await control.echo(), 'hello')
      alone.kill('SIGTERM')
      const code = await control.closed
      t.equal(code, goodbye === undefined ? 1005 : 1001)
      t.same(await alone.exited, { code: 0, signal: null })

      const app = await startBackend(t, broker, PROGRAM, { env })
      const client = await chat(t, broker.port())
      t.equal(await client.echo(), 'hello')
      const late = ask(broker.url('/slow'))
      await app.message('asked')
      app.kill('SIGTERM')
      await broker.until(
        ({ services }) =>
          services.every(({ backends }) => backends.every(({ state }) => state === 'draining')),
        'it drains',
      )
      t.equal(await client.echo(), 'hello', 'while a request is in progress, the conversation goes on')
      app.say('answer')
      t.equal((await late).body, 'late')
      t.equal(await client.closed, code)
      t.same(await app.exited, { code: 0, signal: null })
      t.equal(app.messages().filter(({ msg }) => msg === 'closed').length, 1)
    })
  }

  await t.test('at a drain by the operator, if the app closes at it', async (t) => {
    const app = await startBackend(t, broker, PROGRAM, { env: { AT_DRAIN: '1' } })
    const client = await chat(t, broker.port())
    t.equal(await client.echo(), 'hello')
    const { status } = await fetch(`${broker.admin}/api/v1/services/web/drain`, { method: 'POST' })
    t.equal(status, 202)
    t.equal(await client.closed, 1005)
    t.same(await app.exited, { code: 0, signal: null })
  })
})
