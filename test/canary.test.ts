import t, { type Test } from 'tap'
import { batonCommand } from './support/broker.ts'
import { addresses, CanaryService } from './support/canary-service.ts'
import { batonHere, type Said } from './support/command.ts'
import { eventually } from './support/eventually.ts'
import { LIMIT } from './support/limits.ts'
import { masterStatus } from './support/operator.ts'
import { Program } from './support/process.ts'

// A deploy that tries the new version with a share of the new connections.

const service = await CanaryService.start(t)
const { broker } = service

const baton = (...args: string[]): Promise<Said> => batonHere(...args, '--config', broker.configFile)

/** `baton deploy web` in a process of its own. */
function deploy(t: Test, ...args: string[]): Program {
  return new Program(t, process.execPath, [
    batonCommand,
    'deploy',
    'web',
    ...args,
    '--config',
    broker.configFile,
  ])
}

/** Versions that answer these clients. */
async function versionsOf(t: Test, clients: readonly string[]): Promise<string[]> {
  const answers = await Promise.all(clients.map((address) => service.ask(t, address)))
  t.same(new Set(answers.map(({ status }) => status)), new Set([200]))
  return answers.map(({ version }) => version)
}

const shifted = async () =>
  (await broker.status()).services[0] as { shift?: { to: string; share: number; canary: boolean } | null }
/** The worker hears of it at about the same time as the command. */
const notShifted = () => eventually(async () => (await shifted()).shift === null, 'no shift is in force')
async function begins(command: Program): Promise<void> {
  await eventually(() => command.lines.some((line) => line.startsWith('canary web: ')), 'the canary begins')
  await eventually(async () => ((await shifted()).shift?.share ?? 0) > 0, 'it gets its share')
}
const CLIENTS = addresses(200)

void t.test('what is refused changes nothing', { timeout: LIMIT }, async (t) => {
  const before = (await masterStatus(t, broker)).managed
  for (const [share, time] of [
    ['0%', '1m'],
    ['101%', '1m'],
    ['5', '1m'],
    ['half', '1m'],
    ['5%', 'soon'],
    ['5%', '0s'],
  ] as const) {
    const { code, out } = await baton('deploy', 'web', '--canary', share, '--for', time)
    t.same([code, out], [2, []], `${share} ${time}`)
  }
  const same = await baton('deploy', 'web', '--canary', '5%', '--for', '1m')
  t.equal(same.code, 2)
  t.same(same.out, [])
  t.equal(same.err.length, 1)
  t.match(same.err[0], /version 1\.0 of service web is running already; .* \(BATON_ERR_NO_CANARY\)$/)
  await service.next(t, '2.0')
  t.equal((await baton('shift', 'web', '--to', '1.0', '--share', '50%')).code, 0)
  t.match(await baton('deploy', 'web', '--canary', '5%', '--for', '1m'), {
    code: 2,
    err: [/connections of service web are shifted; "baton shift web --off" ends that/],
  })
  t.equal((await baton('shift', 'web', '--off')).code, 0)
  t.same((await masterStatus(t, broker)).managed, before)
  t.same(new Set(await versionsOf(t, CLIENTS.slice(0, 20))), new Set(['1.0']))
})

void t.test(
  'a canary that fails its checks is drained, and the old version has everything again',
  { timeout: LIMIT },
  async (t) => {
    const command = deploy(t, '--canary', '20%', '--for', '10h')
    await begins(command)
    t.match((await shifted()).shift, { to: '2.0', share: 20, canary: true })
    const first = await versionsOf(t, CLIENTS)
    const moved = first.filter((version) => version === '2.0').length
    t.ok(Math.abs(moved - 40) < 20, `${moved} of 200`)
    t.same(await versionsOf(t, CLIENTS), first, 'each client stays with its version')
    t.ok(
      (await baton('status')).out.some((line) =>
        /^web: 20% of new connections go to version 2\.0; a canary$/.test(line),
      ),
    )
    t.match(await baton('shift', 'web', '--off'), { code: 1, err: [/a canary of web is in progress/] })

    service.fails('2.0', true)
    t.same(await command.exited, { code: 1, signal: null })
    t.same(new Set(await versionsOf(t, CLIENTS)), new Set(['1.0']))
    await notShifted()
    const reason = /the canary \(version 2\.0\) failed \d+ of \d+ health checks \(the old version 0 of \d+\)/
    t.match(
      command.lines.filter((line) => reason.test(line)),
      [/^failed web: /, /; every instance runs the old version$/],
    )
    await broker.until(
      ({ services }) => services[0]?.backends.length === 2,
      'the process of the canary has gone',
    )
    service.fails('2.0', false)
  },
)

void t.test('Ctrl-C ends the command, not the canary; --abort does', { timeout: LIMIT }, async (t) => {
  const command = deploy(t, '--canary', '20%', '--for', '10h')
  await begins(command)
  command.kill('SIGINT')
  await command.exited
  t.match((await shifted()).shift, { canary: true })
  t.equal((await baton('deploy', 'web', '--abort')).code, 0)
  await notShifted()
  t.same(new Set(await versionsOf(t, CLIENTS)), new Set(['1.0']))
})

void t.test('a canary that is no worse takes over, and the deploy goes on', { timeout: LIMIT }, async (t) => {
  const command = deploy(t, '--canary', '50%', '--for', '500ms')
  t.same(await command.exited, { code: 0, signal: null })
  t.match(
    command.lines.filter((line) => /^(?:canary|done) /.test(line)),
    [
      /^canary web: version 2\.0 gets 50% of the new connections for 500ms$/,
      // No client came in that half second, and perhaps no health check: the line says so.
      /^canary web: no worse than the old version: it got no connections(?:, 0 of \d+ health checks failed)?$/,
      /^done web: 2 replaced$/,
    ],
  )
  await notShifted()
  t.same(new Set(await versionsOf(t, CLIENTS)), new Set(['2.0']))
})
