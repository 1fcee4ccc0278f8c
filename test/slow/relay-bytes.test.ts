import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { play, planOf } from '../programs/random-streams.mjs'
import { startBackend } from '../support/backend.ts'
import { startBroker, unaccounted } from '../support/broker.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { reload } from '../support/operator.ts'
import { Program, root } from '../support/process.ts'

// Random conversations through relays: sizes, pauses, and who ends or resets first. `SEED` repeats one run, `CONVERSATIONS` sets how many.

const { SEED, CONVERSATIONS = '300' } = process.env
const seed = SEED === undefined ? randomInt(1 << 24) : Number(SEED)
const count = Number(CONVERSATIONS)
const TOGETHER = 24

void t.test(`seed ${seed}`, { timeout: 2 * LIMIT }, async (t) => {
  const plain = new Program(t, process.execPath, [join(root, 'test/programs/random-streams-backend.mjs')], {
    env: { PORT: '0' },
  })
  const { port: upstream } = await plain.message('ready')
  const names = ['endpoint', 'upstream', 'handed-off']
  const broker = await startBroker(t, {
    config: {
      listeners: names.map((name) => ({ name, listen: '127.0.0.1:0', protocol: 'tcp', service: name })),
      services: {
        // By a connection to the backend's own endpoint.
        endpoint: { handoff: 'off' },
        upstream: { upstreams: [{ address: `127.0.0.1:${Number(upstream)}` }] },
        'handed-off': {},
      },
    },
  })
  const servers = new Map([['upstream', plain]])
  for (const service of ['endpoint', 'handed-off'])
    servers.set(service, await startBackend(t, broker, 'random-streams-backend.mjs', { service }))

  const clients = new Map<number, Awaited<ReturnType<typeof play>>>()
  let next = 0
  const converse = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) {
      const id = seed + index
      const port = broker.port(names[index % names.length])
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
      await once(socket, 'connect')
      socket.write(`${id}\n`)
      clients.set(id, await play(socket, id, 'client'))
      // Relays, and offers on their way, go on through it.
      if (index === Math.floor(count / 2)) t.match(await reload(t, broker), { success: true })
    }
  }
  await Promise.all(Array.from({ length: TOGETHER }, converse))

  for (const [id, client] of clients) {
    const name = names[(id - seed) % names.length] as string
    const plan = planOf(id)
    const program = servers.get(name) as Program
    const isIts = (line: string) => line.startsWith(`{"msg":"conversation","id":${id},`)
    // A reset that overtakes the bytes before it leaves the server nothing to know the conversation by.
    const said =
      plan.end === 'client resets'
        ? program.lines.find(isIts)
        : await program.line(isIts, `the server's side of ${id}`)
    const server = said === undefined ? undefined : (JSON.parse(said) as typeof client)
    const whole = !plan.end.endsWith('resets')
    const wrong =
      client.wrong ||
      server?.wrong ||
      (whole &&
        (client.received !== plan.server.length ||
          server?.received !== plan.client.length ||
          client.end !== 'end' ||
          server?.end !== 'end'))
    if (wrong) t.fail(`${name} ${id}: ${JSON.stringify({ plan, client, server })}`)
    else t.pass(`${name} ${id}`)
  }
  await eventually(async () => {
    const status = await broker.status()
    return unaccounted(status) === 0 && status.services.every(({ inFlight, held }) => inFlight + held === 0)
  }, 'every connection has ended')
})
