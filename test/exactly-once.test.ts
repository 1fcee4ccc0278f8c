import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Client } from './support/client.ts'
import { killBackends, programPath, recording } from './support/kill-scene.ts'
import { LIMIT } from './support/limits.ts'
import { Program } from './support/process.ts'
import { type Service, startServices } from './support/service.ts'

// The promise under load: whatever dies between accept and adoption, no client sees an error that another backend could have
// hidden. These are short forms of `bench/kill.mjs` and `bench/hold.mjs`; `test/slow/exactly-once.test.ts` has longer ones,
// and a form of `bench/stuck.mjs`.

const { broker, services } = await startServices(t, { killed: {}, down: {} })

void t.test(
  'SIGKILL of backends under load: no error for a connection without a complete ACK',
  { timeout: LIMIT },
  async (t) => {
    await killBackends(t, services.killed, 8)
  },
)

void t.test(
  'all backends down: held clients are served in order of arrival, those that left are counted',
  { timeout: LIMIT },
  async (t) => {
    const { down } = services
    const env = { ...recording(down), ADOPTIONS: join(broker.folder, 'down') }
    const start = async () => {
      const program = new Program(t, process.execPath, [programPath('recording-backend.mjs')], { env })
      program.say('register')
      await program.message('registered')
      return program
    }
    for (const backend of [await start(), await start()]) {
      backend.kill('SIGKILL')
      await backend.exited
    }
    await down.until(({ backends }) => backends.length === 0, 'all are down')

    // More clients than are offered to one backend at once.
    const arrived = await arrive(t, down, 100)
    const stayed = arrived.filter(({ kind }) => kind !== 'leaves')
    await down.until(({ held }) => held === stayed.length, 'clients that left are gone')
    t.ok(
      stayed.every(({ client }) => client.open && client.received === ''),
      'no bytes meanwhile',
    )

    const last = await start()
    const bodies = await Promise.all(stayed.map(async ({ client }) => (await client.answer()).body))
    t.same(new Set(bodies), new Set([`${last.pid}\n`]), 'all held clients are served')
    t.same(
      adoptedPorts(env.ADOPTIONS),
      stayed.map(({ port }) => port),
      'in order of arrival',
    )
    const state = await down.until(({ inFlight }) => inFlight === 0, 'settled')
    t.equal(state.unaccounted, 0)
    t.match(state.outcomes, {
      handed_off: stayed.length,
      client_gone: arrived.length - stayed.length,
      rejected: 0,
      relinquished: 0,
    })
  },
)

type Kind = 'waits' | 'half-closes' | 'leaves'

/** Clients in four waves; the broker has accepted each wave before the next begins. */
async function arrive(
  t: Test,
  service: Service,
  count: number,
): Promise<{ client: Client; port: number; kind: Kind }[]> {
  const kinds: Kind[] = ['waits', 'half-closes', 'waits', 'leaves']
  const arrived = []
  for (let index = 0; index < count; index++) {
    const kind = kinds[index % kinds.length] as Kind
    const client = await service.open(t)
    const { port } = client
    client.request()
    if (kind === 'half-closes') client.socket.end()
    if (kind === 'leaves') client.socket.resetAndDestroy()
    arrived.push({ client, port, kind })
    if (arrived.length % (count / 4) === 0) {
      await service.until(({ accepted }) => accepted === arrived.length, `${arrived.length} accepted`)
    }
  }
  return arrived
}

/** Client ports in order of adoption, as recorded by `recording-backend.mjs`. */
function adoptedPorts(file: string): number[] {
  return readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => Number(line.split(' ')[1]))
}
