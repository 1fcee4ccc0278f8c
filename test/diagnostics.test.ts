import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { startBackend } from './support/backend.ts'
import { startBroker } from './support/broker.ts'
import { Client } from './support/client.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { root, temporaryFolder } from './support/process.ts'
import { PATIENT } from './support/service.ts'

// The channels of node:diagnostics_channel, through the two programs of docs/how-to/opentelemetry.md.

interface Span {
  readonly name: string
  readonly attributes: Record<string, unknown>
  readonly events: { readonly name: string; readonly 'baton.backend'?: string }[]
}

const urlOf = (path: string) => pathToFileURL(join(root, path)).href
const folder = temporaryFolder(t)

/** Environment of a process whose spans go to `file`. */
function traced(file: string, program: string): NodeJS.ProcessEnv {
  return {
    NODE_OPTIONS: `--import=${urlOf('test/programs/span-printer.mjs')}`,
    SPANS: join(folder, file),
    TRACING: urlOf(`examples/opentelemetry/${program}`),
  }
}

function spansOf(file: string): Span[] {
  const path = join(folder, file)
  if (!existsSync(path)) return []
  const lines = readFileSync(path, 'utf8').trim().split('\n')
  return lines.map((line) => JSON.parse(line) as Span)
}

void t.test('spans of a connection, in the broker and in two backends', { timeout: LIMIT }, async (t) => {
  // A deadline that expires would be a step of its own.
  const config = { services: { web: PATIENT } }
  const broker = await startBroker(t, { config, env: traced('broker', 'broker.mjs') })
  const first = await startBackend(t, broker, 'http-backend.mjs', { env: traced('first', 'backend.mjs') })
  const client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
  const { body } = await client.get()
  const { connection: id } = JSON.parse(body) as { connection: string }
  await startBackend(t, broker, 'http-backend.mjs', { env: traced('second', 'backend.mjs') })
  await broker.backends(2)
  first.kill('SIGTERM')
  await first.exited
  await client.get()
  client.socket.destroy()
  await eventually(() => spansOf('second').length > 0, 'the connection has ended')

  const common = { 'baton.connection.id': id, 'baton.service': 'web', 'baton.listener': 'web' }
  t.match(spansOf('first'), [
    {
      name: 'connection',
      attributes: { ...common, 'baton.via': 'handoff', 'baton.moved_on': true },
      events: [{ name: 'adopted' }],
    },
  ])
  t.match(spansOf('second'), [{ attributes: { ...common, 'baton.moved_on': false } }])
  const steps = () =>
    spansOf('broker')
      .filter(({ attributes }) => attributes['baton.connection.id'] === id)
      .map(({ events }) => events.map(({ name }) => name))
  // The backend may be done before the broker has read its ACK.
  await eventually(() => steps().length >= 3, 'the broker has handed it off again')
  t.same(steps(), [
    ['accepted', 'chosen', 'offered', 'acknowledged', 'released'],
    ['handed_back', 'parked'],
    ['awake', 'chosen', 'offered', 'acknowledged', 'released'],
  ])
  t.match(
    spansOf('broker')[0]?.events.find(({ name }) => name === 'chosen'),
    { 'baton.backend': 'web-1' },
    'the backend by its slot',
  )
})
