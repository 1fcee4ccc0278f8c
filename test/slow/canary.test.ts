import t, { type Test } from 'tap'
import { batonCommand } from '../support/broker.ts'
import { addresses, CanaryService } from '../support/canary-service.ts'
import { batonHere } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT, starts } from '../support/limits.ts'
import { Program } from '../support/process.ts'

// A share of the connections under load, and a canary that breaks under it.

/** Clients at a time. */
const CONCURRENCY = 50

async function askAll(
  t: Test,
  service: CanaryService,
  clients: readonly string[],
): Promise<{ address: string; version: string; status: number }[]> {
  const answers: { address: string; version: string; status: number }[] = []
  const left = clients[Symbol.iterator]()
  const ask = async () => {
    for (const address of left) answers.push({ address, ...(await service.ask(t, address)) })
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, ask))
  return answers
}

void t.test(
  'the share is right within a point over 20,000 connections',
  { timeout: 5 * LIMIT },
  async (t) => {
    const service = await CanaryService.start(t)
    const { broker } = service
    await service.next(t, '2.0')
    const command = new Program(t, process.execPath, [
      batonCommand,
      'deploy',
      'web',
      '--canary',
      '10%',
      '--for',
      '10h',
      '--config',
      broker.configFile,
    ])
    await eventually(() => command.lines.some((line) => line.startsWith('canary web: ')), 'the canary begins')
    // The worker hears of it at about the same time as the command.
    await broker.until(({ services }) => services[0]?.shift?.share === 10, 'it gets its share')
    const answers = await askAll(t, service, addresses(20_000))
    const moved = answers.filter(({ version }) => version === '2.0').length
    const share = (moved / answers.length) * 100
    t.ok(Math.abs(share - 10) < 1, `${share} %`)
    const counted = await Promise.all(
      ['to', 'others'].map((side) =>
        broker.metric(`baton_shift_connections_total{service="web",side="${side}"}`),
      ),
    )
    t.same(counted, [moved, answers.length - moved])

    await t.test('a canary that breaks is gone within 5 s, and only its own clients saw it', async (t) => {
      const clients = addresses(1000)
      const ofCanary = new Set(
        (await askAll(t, service, clients)).flatMap(({ address, version }) =>
          version === '2.0' ? [address] : [],
        ),
      )
      const affected = new Set<string>()
      let last = 0
      const end = new AbortController()
      let asked = 0
      const load = Promise.all(
        Array.from({ length: 8 }, async (_, index) => {
          for (let at = index; !end.signal.aborted; at += 8) {
            const address = clients[at % clients.length] as string
            const { version, status } = await service.ask(t, address)
            asked += 1
            if (status !== 200) {
              affected.add(address)
              last = performance.now()
              if (version !== '2.0') t.fail(`version ${version} has failed`)
            } else if (version !== '1.0' && !ofCanary.has(address)) t.fail(`${address} has moved`)
          }
        }),
      )
      const broken = performance.now()
      service.fails('2.0', true)
      t.same(await command.exited, { code: 1, signal: null })
      const before = asked
      await eventually(() => asked > before + 2000, 'the load goes on')
      end.abort()
      await load
      t.ok(affected.size > 0)
      t.same(
        [...affected].filter((address) => !ofCanary.has(address)),
        [],
        'no client of the old version saw it',
      )
      t.ok(last - broken < Math.max(5000, starts(0.2)), `${Math.round(last - broken)} ms`)
      t.same((await batonHere('shift', 'web', '--off', '--config', broker.configFile)).out, [
        'web: no connections are shifted',
      ])
    })
  },
)
