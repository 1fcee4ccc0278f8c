import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Poller } from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { parseConfig } from '../src/config/index.ts'
import { startDeploy } from '../src/deploy/index.ts'
import { Fleet, type InstanceStatus, systemFleetOs } from '../src/fleet/index.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanEnvironment, Program, temporaryFolder } from '../../../test/support/process.ts'
import { signal } from '../../../test/support/signal.ts'

// Managed backends as real processes. What they are to a broker is the business of the whole-system tests.

interface LogLine {
  readonly msg: string
  readonly [key: string]: unknown
}

/** One poller for all: it holds a thread of the pool. */
const poller = new Poller()
t.teardown(() => poller.close())

/** A fleet that can not outlive its test, its log, and what it asked a broker for. */
class Scene {
  readonly fleet: Fleet
  readonly log: LogLine[] = []
  readonly folder: string
  readonly drains: string[] = []

  constructor(t: Test, env: NodeJS.ProcessEnv = {}) {
    this.folder = temporaryFolder(t)
    const logger = pino({}, { write: (line: string) => void this.log.push(JSON.parse(line) as LogLine) })
    this.fleet = new Fleet({
      logger,
      os: systemFleetOs(poller),
      socket: '/nowhere/control.sock',
      env: cleanEnvironment(env),
      drain: (_service, id) => this.drains.push(id),
    })
    t.teardown(() => this.fleet.close())
  }

  /** `script` for sh(1), as service `web`. */
  apply(script: string | undefined, settings: Record<string, unknown> = {}): void {
    this.fleet.apply({ services: services(script, settings), base: this.folder, drainDeadline: 1000 })
  }

  /** Lines that its processes wrote. */
  lines(stream: 'stdout' | 'stderr' = 'stdout'): string[] {
    return this.log.filter((line) => line['stream'] === stream).map(({ msg }) => msg)
  }

  messages(msg: string): LogLine[] {
    return this.log.filter((line) => line.msg === msg)
  }

  get only(): InstanceStatus {
    const [status, ...others] = this.fleet.statuses()
    if (status === undefined || others.length > 0) throw new Error('not exactly one')
    return status
  }
}

function services(script: string | undefined, settings: Record<string, unknown> = {}) {
  const command = script === undefined ? null : ['sh', '-c', script]
  return parseConfig({
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: { command, ...settings } },
  }).services
}

const descriptors = () => readdirSync('/proc/self/fd').length

/** State letters of a process's children, as in proc(5): `Z` is one that nobody has reaped. */
function childStates(pid: number): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      if (!existsSync(`/proc/${name}/stat`)) return []
      const stat = readStat(name)
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      return Number(parent) === pid && state !== undefined ? [state] : []
    })
}

function readStat(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    // It has ended since the listing.
    return ''
  }
}

void t.test('each process gets its environment, its folder and an id of its own', async (t) => {
  const scene = new Scene(t, { KEPT: 'yes', NOTIFY_SOCKET: '/run/n' })
  const script =
    'echo "$BATON_SERVICE $BATON_SOCKET $BATON_VERSION $KEPT $MORE [$NOTIFY_SOCKET] $BATON_BACKEND_ID"; pwd; exec sleep 60'
  scene.apply(script, { instances: 2, env: { BATON_VERSION: '7', MORE: 'too' } })
  await eventually(() => scene.lines().length === 4, 'both have spoken')
  const statuses = scene.fleet.statuses()
  t.match(statuses, [
    { service: 'web', instance: 'web.1', state: 'running', restarts: 0, generation: 1, version: '7' },
    { service: 'web', instance: 'web.2', state: 'running' },
  ])
  for (const { backend, pid } of statuses) {
    t.match(backend, /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/)
    t.ok(scene.lines().includes(`web /nowhere/control.sock 7 yes too [] ${backend}`))
    t.match(
      scene.messages('backend process started').find((line) => line['backend'] === backend),
      {
        service: 'web',
        peerPid: pid,
      },
    )
  }
  t.equal(scene.lines().filter((line) => line === scene.folder).length, 2)
})

void t.test(
  'output: lines of both streams, partial ones, long ones, and the last without an end',
  async (t) => {
    const scene = new Scene(t)
    const long = `head -c 40000 /dev/zero | tr '\\0' x; echo`
    scene.apply(`printf 'be'; echo oops >&2; sleep 0.1; echo gin; ${long}; printf last; exec sleep 0.1`)
    await eventually(() => scene.messages('backend process ended').length > 0, 'its end')
    const end = scene.log.findIndex(({ msg }) => msg === 'backend process ended')
    const before = scene.log.slice(0, end)
    const lines = before.filter((line) => line['stream'] === 'stdout').map(({ msg }) => msg)
    t.equal(lines[0], 'begin')
    t.same(
      lines.slice(1, 4).map(({ length }) => length),
      [16_384, 16_384, 40_000 - 2 * 16_384],
    )
    t.equal(lines[4], 'last', 'before the exit is told')
    t.match(
      before.find((line) => line['stream'] === 'stderr'),
      { msg: 'oops', service: 'web', instance: 'web.1' },
    )
  },
)

void t.test('output that is still in the pipe when the process ends is read to its end', async (t) => {
  const scene = new Scene(t)
  const text = 'seq 1 20000'
  scene.apply(text)
  await eventually(() => scene.messages('backend process ended').length > 0, 'its end')
  const end = scene.log.findIndex(({ msg }) => msg === 'backend process ended')
  t.equal(scene.log.slice(0, end).findLast((line) => line['stream'] === 'stdout')?.msg, '20000')
})

void t.test('a process that leaves another behind with its output is over all the same', async (t) => {
  const scene = new Scene(t)
  scene.apply('sleep 3 & echo $!; exit 3')
  await eventually(() => scene.messages('backend process ended').length > 0, 'its end', 2500)
  t.match(scene.messages('backend process ended')[0], { code: 3, signal: null })
})

void t.test('a process that ends is started again, with a new id; a crash loop is told loudly', async (t) => {
  const scene = new Scene(t)
  const before = descriptors()
  // No delay below is more than 6.4 s; the eighth exit comes after 12.7 s.
  scene.apply('exit 5')
  await eventually(() => scene.only.state === 'crashed', 'a crash loop', 20_000)
  t.equal(scene.messages('backend process started').length, 8)
  t.equal(new Set(scene.messages('backend process started').map((line) => line['backend'])).size, 8)
  t.ok(scene.messages('backend process ended').every((line) => line['code'] === 5))
  const loud = scene.log.filter((line) => (line['level'] as number) >= 50)
  t.match(loud, [{ instance: 'web.1', delayMs: 60_000, msg: /crash loop/ }])
  t.match(scene.only, { backend: null, pid: null, restarts: 7 })
  t.equal(descriptors(), before)
  t.same(
    childStates(process.pid).filter((state) => state === 'Z'),
    [],
  )
})

void t.test('a program that is not there, and a folder that has gone, are exits that say so', async (t) => {
  const scene = new Scene(t)
  const before = descriptors()
  scene.fleet.apply({
    services: parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: { command: ['/no/such/program'] } },
    }).services,
    base: scene.folder,
    drainDeadline: 1000,
  })
  await eventually(() => scene.messages('backend process could not be started').length >= 2, 'two tries')
  t.match(scene.messages('backend process could not be started')[0], { reason: /ENOENT/ })
  await scene.fleet.stop(1000)
  t.equal(descriptors(), before)
})

void t.test('SIGTERM, and SIGKILL for who ignores it', async (t) => {
  const scene = new Scene(t)
  const before = descriptors()
  scene.apply(`trap '' TERM; echo deaf; while :; do sleep 0.05; done`)
  await eventually(() => scene.lines().includes('deaf'), 'the trap is set')
  const begun = performance.now()
  await scene.fleet.stop(300)
  t.ok(performance.now() - begun >= 290)
  t.match(scene.messages('backend process ended'), [{ code: null, signal: 'SIGKILL' }])
  t.same(scene.fleet.statuses(), [])
  t.equal(descriptors(), before)
})

void t.test('what a broker lists is drained before it gets SIGTERM', async (t) => {
  const scene = new Scene(t)
  scene.apply(`trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done`)
  await eventually(() => scene.lines().includes('up'), 'the trap is set')
  const { backend, pid } = scene.only
  const listed = { service: 'web', id: backend as string, slot: 'web-1', pid: pid as number, state: 'ready' }
  scene.fleet.reported([listed])
  scene.apply(undefined)
  t.same(scene.drains, [backend])
  t.equal(scene.only.state, 'stopping')
  scene.fleet.reported([{ ...listed, state: 'draining' }])
  t.notOk(scene.lines().includes('bye'))
  scene.fleet.reported([])
  await eventually(() => scene.fleet.statuses().length === 0, 'it is gone')
  t.ok(scene.lines().includes('bye'))
  t.match(scene.messages('backend process ended'), [{ level: 30, code: 0 }])
})

void t.test(
  'what a lost worker saw drain has its deadline, also over a re-execution of the master',
  async (t) => {
    const scene = new Scene(t)
    scene.apply(`trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done`)
    await eventually(() => scene.lines().includes('up'), 'the trap is set')
    const { backend, pid } = scene.only
    const listed = {
      service: 'web',
      id: backend as string,
      slot: 'web-1',
      pid: pid as number,
      state: 'ready',
    }
    scene.fleet.reported([listed])
    scene.apply(undefined)
    scene.fleet.lost([listed])
    scene.fleet.reported([listed])
    scene.fleet.lost([])
    const { state } = scene.fleet.serialize()
    t.match(state.services[0]?.leaving, [{ process: { life: { kind: 'draining', unobserved: true } } }])
    scene.fleet.reported([])
    t.same(scene.only.state, 'stopping')
    t.match(scene.fleet.serialize().state, state, 'it drains as before')
    await scene.fleet.stop(1000)
    t.ok(scene.lines().includes('bye'))
  },
)

void t.test('a changed definition is told, and waits for a deploy', async (t) => {
  const scene = new Scene(t)
  scene.apply('exec sleep 60')
  const { pid } = scene.only
  scene.apply('exec sleep 61')
  t.equal(scene.only.pid, pid)
  t.match(
    scene.log.filter((line) => line['level'] === 40),
    [{ service: 'web', msg: /baton deploy web/ }],
  )
  t.throws(() => scene.apply('exec sleep 60', { cwd: 'missing' }), { code: 'BATON_ERR_BACKEND_FOLDER' })
  t.equal(scene.only.pid, pid)
})

void t.test(
  'a deploy whose new version ends at start keeps the old one and has its last words',
  async (t) => {
    const scene = new Scene(t)
    scene.apply('exec sleep 60', { instances: 2 })
    const pids = scene.fleet.statuses().map(({ pid }) => pid)
    const service = services(`echo starting; echo 'no key.pem' >&2; exit 4`).get('web')!
    const result = await startDeploy(scene.fleet, { service, base: scene.folder }).done
    t.match(result, { success: false, reason: 'web.1 ended with exit code 4', returned: true })
    t.same(result.success ? [] : [...result.output].toSorted(), ['no key.pem', 'starting'])
    t.same(
      scene.fleet.statuses().map(({ pid }) => pid),
      pids,
    )
  },
)

void t.test('a deploy of real processes, each listed by the broker once it is up', async (t) => {
  const scene = new Scene(t)
  const before = descriptors()
  scene.apply('exec sleep 60', { instances: 2 })
  const old = scene.fleet.statuses().map(({ pid }) => pid)
  const service = services('exec sleep 61', { minHealthy: '20ms' }).get('web')!
  const report = () =>
    scene.fleet.reported(
      scene.fleet
        .statuses()
        .flatMap(({ backend, pid, state, service }) =>
          backend === null || state === 'stopping'
            ? []
            : [{ service, id: backend, slot: 'web-1', pid: pid ?? 0, state: 'ready' }],
        ),
    )
  report()
  const { done } = startDeploy(scene.fleet, {
    service,
    base: scene.folder,
    progress: ({ step }) => {
      if (step === 'started' || step === 'draining') setImmediate(report)
    },
  })
  t.same(await done, { success: true, replaced: 2 })
  const statuses = scene.fleet.statuses()
  t.match(statuses, [
    { instance: 'web.1', generation: 2, state: 'running' },
    { instance: 'web.2', generation: 2, state: 'running' },
  ])
  t.notOk(statuses.some(({ pid }) => old.includes(pid)))
  scene.fleet.reported([])
  await scene.fleet.stop(1000)
  t.equal(descriptors(), before)
})

void t.test('close kills what still runs', async (t) => {
  const scene = new Scene(t)
  const before = descriptors()
  scene.apply(`trap '' TERM; echo up; while :; do sleep 0.05; done`)
  await eventually(() => scene.lines().includes('up'), 'it is up')
  const pid = scene.only.pid as number
  scene.fleet.close()
  scene.fleet.close()
  await eventually(() => !existsSync(`/proc/${pid}`), 'it is gone, and reaped')
  t.equal(descriptors(), before)
})

/** A master in a process of its own, that can re-execute itself. */
function startMaster(
  t: Test,
  folder: string,
  script: string,
  settings: Record<string, unknown> = {},
): Program {
  const config = {
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: { command: ['sh', '-c', script], ...settings } },
  }
  const program = new Program(
    t,
    process.execPath,
    [join(import.meta.dirname, 'programs/master.mjs'), JSON.stringify(config)],
    { cwd: folder },
  )
  t.teardown(() => {
    for (const line of program.messages()) {
      if (line['msg'] === 'backend process started') killIfRunning(line['peerPid'] as number, program.pid)
    }
  })
  return program
}

/** Only while it is the master's child: the number may be another's by now. */
function killIfRunning(pid: number, parent: number): void {
  const stat = existsSync(`/proc/${pid}/stat`) ? readStat(String(pid)) : ''
  if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === parent) signal(pid, 'SIGKILL')
}

async function command(master: Program, text: string, answer: string): Promise<Record<string, unknown>> {
  const seen = master.messages().filter(({ msg }) => msg === answer).length
  master.child.stdin?.write(`${text}\n`)
  const answers = () => master.messages().filter(({ msg }) => msg === answer)
  await eventually(() => answers().length > seen, `"${answer}"`, 20_000)
  return answers()[seen] as Record<string, unknown>
}

void t.test('a re-executed master has its processes, their output, and how they end', async (t) => {
  const folder = temporaryFolder(t)
  const go = join(folder, 'go')
  // Its first word comes before the re-execution, the rest after it.
  const script = `printf 'be'; echo up >&2; while [ ! -e ${go} ]; do sleep 0.02; done; echo gin; seq 1 500; exit 7`
  const master = startMaster(t, folder, script)
  const [before] = (await master.message('up'))['statuses'] as [InstanceStatus]
  await master.line((line) => line.includes('"stream":"stderr"'), 'the first word')
  const again = await command(master, 'exec', 'up again')
  t.equal(again['pid'], master.pid)
  t.same(again['statuses'], [before], 'the same process, since the same time')
  writeFileSync(go, '')
  const end = await master.message('backend process ended')
  t.match(end, { code: 7, signal: null, backend: before.backend, peerPid: before.pid })
  const lines = master
    .messages()
    .filter((line) => line['stream'] === 'stdout' && line['backend'] === before.backend)
    .map(({ msg }) => msg)
  t.same(lines, ['begin', ...Array.from({ length: 500 }, (_, index) => String(index + 1))])
  t.ok((end['livedMs'] as number) > 0)
  await eventually(
    () => master.messages().filter(({ msg }) => msg === 'backend process started').length > 1,
    'a restart',
  )
  t.notOk(existsSync(`/proc/${before.pid}`), 'it was reaped')
  await command(master, 'stop', 'stopped')
  await master.exited
})

void t.test(
  'a process that ends during the re-execution is reaped, and told with its last words',
  async (t) => {
    const script = 'echo up; while [ ! -e go ]; do sleep 0.02; done; echo last; exit 9'
    const master = startMaster(t, temporaryFolder(t), script)
    const [before] = (await master.message('up'))['statuses'] as [InstanceStatus]
    await master.line((line) => line.includes('"msg":"up"') && line.includes('stdout'), 'its first word')
    await command(master, 'exec over the dead', 'up again')
    const end = await master.message('backend process ended')
    t.match(end, { code: 9, signal: null, backend: before.backend })
    const spoken = master.messages().filter((line) => line['backend'] === before.backend && line['stream'])
    t.same(
      spoken.map(({ msg }) => msg),
      ['up', 'last'],
    )
    t.notOk(existsSync(`/proc/${before.pid}`), 'it was reaped')
    await command(master, 'stop', 'stopped')
    await master.exited
  },
)

void t.test('a process that was taken over gets its signals', async (t) => {
  const master = startMaster(t, temporaryFolder(t), `trap '' TERM; echo deaf; while :; do sleep 0.05; done`)
  await master.line((line) => line.includes('deaf'), 'the trap is set')
  await command(master, 'exec', 'up again')
  await command(master, 'stop', 'stopped')
  t.match(await master.message('backend process ended'), { signal: 'SIGKILL', code: null })
  await master.exited
})

void t.test('ten re-executions leak no descriptor, lose no process and no line', async (t) => {
  const master = startMaster(
    t,
    temporaryFolder(t),
    'n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done',
    { instances: 2 },
  )
  const first = (await master.message('up'))['statuses'] as InstanceStatus[]
  await command(master, 'exec', 'up again')
  await command(master, 'status', 'status')
  const count = () => readdirSync(`/proc/${master.pid}/fd`).length
  const before = count()
  for (let time = 0; time < 10; time++) await command(master, 'exec', 'up again')
  const { statuses } = await command(master, 'status', 'status')
  t.same(statuses, first)
  t.equal(count(), before)
  t.notOk(childStates(master.pid).includes('Z'))
  await command(master, 'stop', 'stopped')
  for (const { backend } of first) {
    const lines = master
      .messages()
      .filter((line) => line['backend'] === backend && line['stream'] === 'stdout')
      .map(({ msg }) => Number(msg))
    t.same(
      lines,
      Array.from({ length: lines.length }, (_, index) => index + 1),
    )
    t.ok(lines.length > 10)
  }
  await master.exited
})

void t.test('a crash loop goes on where it was', async (t) => {
  const master = startMaster(t, temporaryFolder(t), 'exit 1')
  await eventually(
    () => master.messages().filter(({ msg }) => msg === 'backend process ended').length >= 3,
    'three exits',
  )
  const [status] = (await command(master, 'status', 'status'))['statuses'] as [InstanceStatus]
  const again = await command(master, 'exec', 'up again')
  t.match(again['statuses'], [{ restarts: status.restarts }])
  const [before] = master.messages().filter((line) => line['delayMs'] === 400)
  t.ok(before, 'the third delay')
  await eventually(() => master.messages().some((line) => line['delayMs'] === 800), 'the fourth delay')
  t.equal(master.messages().filter((line) => line['delayMs'] === 100).length, 1)
  await command(master, 'stop', 'stopped')
  await master.exited
})
