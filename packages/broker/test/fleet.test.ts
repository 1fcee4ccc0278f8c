import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Poller } from '@baton/native-sendmsg'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { parseConfig } from '../src/config/config.ts'
import { startDeploy } from '../src/master/deploy/rolling-deploy.ts'
import { Fleet } from '../src/master/fleet/fleet.ts'
import { fleetClock, type FleetOs, systemFleetOs } from '../src/master/fleet/os.ts'
import { Lifeline } from '../src/supervise/lifeline.ts'
import type { InstanceStatus } from '../src/api/master-status.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { cleanEnvironment, Program, temporaryFolder } from '../../../test/support/process.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { signal } from '../../../test/support/signal.ts'

// Managed backends as real processes. How they work with a broker is tested by the whole-system tests.

interface LogLine {
  readonly msg: string
  readonly [key: string]: unknown
}

/** One poller for all: it occupies a thread of the pool. */
const poller = new Poller()
const lifeline = new Lifeline()
t.teardown(() => {
  poller.close()
  lifeline.close()
})

/** A fleet that cannot outlive its test, its log, and its requests to a broker. */
class Scene {
  readonly fleet: Fleet
  readonly log: LogLine[] = []
  readonly folder: string
  readonly drains: string[] = []

  constructor(t: Test, env: NodeJS.ProcessEnv = {}, os: Partial<FleetOs> = {}) {
    this.folder = temporaryFolder(t)
    const logger = pino({}, { write: (line: string) => void this.log.push(JSON.parse(line) as LogLine) })
    this.fleet = new Fleet({
      logger,
      os: { ...systemFleetOs(poller, lifeline), ...os },
      socket: '/nowhere/control.sock',
      env: cleanEnvironment(env),
      master: lifeline.environment,
      workers: { drain: (_service, id) => void this.drains.push(id) },
    })
    t.teardown(() => this.fleet.close())
  }

  /** `script` for sh(1), as service `web`. */
  apply(script: string | undefined, settings: Record<string, unknown> = {}): void {
    this.fleet.apply({ services: services(script, settings), base: this.folder, drainDeadline: 600_000 })
  }

  /** Lines written by its processes. */
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

/** State letters of a process's children, as in proc(5): `Z` has not been reaped. */
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
    // It has exited since the folder was listed.
    return ''
  }
}

void t.test(
  'each process gets its environment, its folder and an id of its own',
  { timeout: LIMIT },
  async (t) => {
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
  },
)

void t.test(
  'output: lines of both streams, partial ones, long ones, and the last without an end',
  { timeout: LIMIT },
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
    t.equal(lines[4], 'last', 'before the exit is logged')
    t.match(
      before.find((line) => line['stream'] === 'stderr'),
      { msg: 'oops', service: 'web', instance: 'web.1' },
    )
  },
)

void t.test(
  'output that is still in the pipe when the process ends is read to its end',
  { timeout: LIMIT },
  async (t) => {
    const scene = new Scene(t)
    const text = 'seq 1 20000'
    scene.apply(text)
    await eventually(() => scene.messages('backend process ended').length > 0, 'its end')
    const end = scene.log.findIndex(({ msg }) => msg === 'backend process ended')
    t.equal(scene.log.slice(0, end).findLast((line) => line['stream'] === 'stdout')?.msg, '20000')
  },
)

void t.test('a process has ended even if a child still holds its output', { timeout: LIMIT }, async (t) => {
  const scene = new Scene(t)
  const stay = join(scene.folder, 'stay')
  writeFileSync(stay, '')
  t.teardown(() => rmSync(stay))
  scene.apply(`while [ -e ${stay} ]; do sleep 0.2; done & exit 3`)
  await eventually(() => scene.messages('backend process ended').length > 0, 'its end')
  t.match(scene.messages('backend process ended')[0], { code: 3, signal: null })
})

void t.test(
  'a process that exits is restarted with a new id; a crash loop is logged as an error',
  { timeout: LIMIT },
  async (t) => {
    // No delay below exceeds 6.4 s; the eighth exit is at 12.7 s on a clock that is advanced to the end of each pause.
    let ahead = 0
    const scene = new Scene(
      t,
      {},
      {
        now: () => fleetClock.now() + ahead,
        setTimeout(callback, milliseconds) {
          if (milliseconds > 6400) return fleetClock.setTimeout(callback, milliseconds)
          ahead += milliseconds
          return fleetClock.setTimeout(callback, 0)
        },
      },
    )
    const before = descriptors()
    scene.apply('exit 5')
    await eventually(() => scene.only.state === 'crashed', 'a crash loop')
    t.same(
      scene.messages('restarting the backend process after a delay').map((line) => line['delayMs']),
      [100, 200, 400, 800, 1600, 3200, 6400],
    )
    t.equal(scene.messages('backend process started').length, 8)
    t.equal(new Set(scene.messages('backend process started').map((line) => line['backend'])).size, 8)
    t.ok(scene.messages('backend process ended').every((line) => line['code'] === 5))
    const loud = scene.log.filter((line) => (line['level'] as number) >= 50)
    t.match(loud, [{ instance: 'web.1', delayMs: 60_000, msg: /crash-looping/ }])
    t.match(scene.only, { backend: null, pid: null, restarts: 7 })
    t.equal(descriptors(), before)
    t.same(
      childStates(process.pid).filter((state) => state === 'Z'),
      [],
    )
  },
)

void t.test(
  'a missing program and a missing folder are exits with a reason',
  { timeout: LIMIT },
  async (t) => {
    const scene = new Scene(t)
    const before = descriptors()
    scene.fleet.apply({
      services: parseConfig({
        listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
        services: { web: { command: ['/no/such/program'] } },
      }).services,
      base: scene.folder,
      drainDeadline: 600_000,
    })
    await eventually(() => scene.messages('backend process could not be started').length >= 2, 'two tries')
    t.match(scene.messages('backend process could not be started')[0], { reason: /ENOENT/ })
    await scene.fleet.stop(60_000)
    t.equal(descriptors(), before)
  },
)

void t.test('SIGTERM, and SIGKILL for a process that ignores it', { timeout: LIMIT }, async (t) => {
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

void t.test('a listed process is drained before it gets SIGTERM', { timeout: LIMIT }, async (t) => {
  const scene = new Scene(t)
  scene.apply(`trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done`)
  await eventually(() => scene.lines().includes('up'), 'the trap is set')
  const { backend, pid } = scene.only
  const listed = {
    service: 'web',
    id: backend as string,
    slot: 'web-1',
    pid: pid as number,
    state: 'ready' as const,
  }
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
  'a drain observed by a lost worker keeps its deadline, also over a re-execution of the master',
  { timeout: LIMIT },
  async (t) => {
    const scene = new Scene(t)
    scene.apply(`trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done`)
    await eventually(() => scene.lines().includes('up'), 'the trap is set')
    const { backend, pid } = scene.only
    const listed = {
      service: 'web',
      id: backend as string,
      slot: 'web-1',
      pid: pid as number,
      state: 'ready' as const,
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
    await scene.fleet.stop(60_000)
    t.ok(scene.lines().includes('bye'))
  },
)

void t.test('a changed definition is logged, and waits for a deploy', { timeout: LIMIT }, async (t) => {
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
  'a deploy whose new version exits at start keeps the old one, and reports its last output',
  { timeout: LIMIT },
  async (t) => {
    const scene = new Scene(t)
    scene.apply('exec sleep 60', { instances: 2 })
    const pids = scene.fleet.statuses().map(({ pid }) => pid)
    const service = services(`echo starting; echo 'no key.pem' >&2; exit 4`).get('web')!
    const result = await startDeploy(scene.fleet, { service, base: scene.folder }).done
    t.match(result, { success: false, reason: 'web.1 exited with code 4', returned: true })
    t.same(result.success ? [] : [...result.output].toSorted(), ['no key.pem', 'starting'])
    t.same(
      scene.fleet.statuses().map(({ pid }) => pid),
      pids,
    )
  },
)

void t.test(
  'a deploy of real processes, each listed by the broker once it is up',
  { timeout: LIMIT },
  async (t) => {
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
              : [{ service, id: backend, slot: 'web-1', pid: pid ?? 0, state: 'ready' as const }],
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
    await scene.fleet.stop(60_000)
    t.equal(descriptors(), before)
  },
)

void t.test('close kills processes that still run', { timeout: LIMIT }, async (t) => {
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

/** Only while it is the master's child: later the pid may belong to another process. */
function killIfRunning(pid: number, parent: number): void {
  const stat = existsSync(`/proc/${pid}/stat`) ? readStat(String(pid)) : ''
  if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) === parent) signal(pid, 'SIGKILL')
}

/** A master in its own process that can re-execute itself, with a sh(1) script in each service. */
class Master {
  readonly program: Program
  readonly folder: string

  constructor(t: Test, scripts: Record<string, { script: string; instances?: number }>) {
    this.folder = temporaryFolder(t)
    const config = {
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: Object.keys(scripts)[0] }],
      services: Object.fromEntries(
        Object.entries(scripts).map(([name, { script, instances = 1 }]) => [
          name,
          { command: ['sh', '-c', script], instances },
        ]),
      ),
    }
    const path = join(import.meta.dirname, 'programs/master.mjs')
    this.program = new Program(t, process.execPath, [path, JSON.stringify(config)], { cwd: this.folder })
    t.teardown(() => {
      for (const { peerPid } of this.messages('backend process started'))
        killIfRunning(peerPid as number, this.program.pid)
    })
  }

  /** Its answer to the command. */
  async ask(text: string, answer: string): Promise<Record<string, unknown>> {
    let left = this.program.lines.length
    this.program.say(text)
    const line = await this.program.line(
      (each) => left-- <= 0 && each.includes(`"msg":"${answer}"`),
      `"${answer}"`,
    )
    return JSON.parse(line) as Record<string, unknown>
  }

  /** The log line with this `msg`, for this service, for which `holds`, once it is there. */
  async told(
    service: string,
    msg: string,
    holds: (line: Record<string, unknown>) => boolean = () => true,
  ): Promise<Record<string, unknown>> {
    let found: Record<string, unknown> = {}
    await this.program.line((each) => {
      if (!each.includes(`"msg":"${msg}"`)) return false
      found = JSON.parse(each) as Record<string, unknown>
      return found['service'] === service && holds(found)
    }, `"${msg}" of ${service}`)
    return found
  }

  messages(msg: string, service?: string): Record<string, unknown>[] {
    return this.program
      .messages()
      .filter((line) => line['msg'] === msg && (service === undefined || line['service'] === service))
  }

  /** The process's output on stdout, and on stderr if requested. */
  spoken(backend: string | null, streams = ['stdout']): string[] {
    return this.program
      .messages()
      .filter((line) => line['backend'] === backend && streams.includes(String(line['stream'])))
      .map(({ msg }) => String(msg))
  }

  get descriptors(): number {
    return readdirSync(`/proc/${this.program.pid}/fd`).length
  }
}

/** Enough to find leaks; `test/long/repetitions.test.ts` runs more. */
const EXECS = Number(process.env['EXECS'] ?? 2)
const PAUSE = 'restarting the backend process after a delay'
const ENDED = 'backend process ended'

void t.test('a master that re-executes itself', { timeout: LIMIT }, async (t) => {
  const master = new Master(t, {
    // Its first output comes before the re-execution, the rest after it.
    speaker: {
      script: `printf 'be'; echo up >&2; while [ ! -e go ]; do sleep 0.05; done; echo gin; seq 1 500; exit 7`,
    },
    counter: { script: 'n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done', instances: 2 },
    crasher: { script: 'exit 1' },
    deaf: { script: `trap '' TERM; echo deaf; while :; do sleep 0.05; done` },
    mortal: { script: 'echo up; while [ ! -e end ]; do sleep 0.05; done; echo last; exit 9' },
  })
  await master.program.message('up')
  await master.told('speaker', 'up')
  await master.told('deaf', 'deaf')
  await master.told('mortal', 'up')
  for (const delay of [100, 200, 400]) {
    await master.told('crasher', PAUSE, ({ delayMs }) => delayMs === delay)
    if (delay < 400) await master.ask('pass', 'passed')
  }
  const before = (await master.ask('status', 'status'))['statuses'] as InstanceStatus[]
  const of = (name: string) => before.find(({ service }) => service === name) as InstanceStatus

  await t.test('has its processes: the same ones, since the same time', async (t) => {
    const again = await master.ask('exec', 'up again')
    t.equal(again['pid'], master.program.pid)
    t.equal(before.length, 6)
    t.same(again['statuses'], before)
  })

  await t.test(`leaks no descriptor and loses no process in ${EXECS} more re-executions`, async (t) => {
    await master.ask('status', 'status')
    const open = master.descriptors
    for (let time = 0; time < EXECS; time++) await master.ask('exec', 'up again')
    t.same((await master.ask('status', 'status'))['statuses'], before)
    t.equal(master.descriptors, open)
    t.notOk(childStates(master.program.pid).includes('Z'))
  })

  await t.test('continues a crash loop where it was', async (t) => {
    t.equal(of('crasher').restarts, 2)
    const [pause, ...others] = (await master.ask('pass', 'passed'))['pauses'] as number[]
    t.same(others, [])
    t.ok(Number(pause) >= 0 && Number(pause) <= 400, `${pause} ms are left of the third pause`)
    await master.told('crasher', PAUSE, ({ delayMs }) => delayMs === 800)
    t.same(
      master.messages(PAUSE, 'crasher').map(({ delayMs }) => delayMs),
      [100, 200, 400, 800],
    )
  })

  await t.test('gets the output of a process, and its exit', async (t) => {
    const { backend, pid } = of('speaker')
    writeFileSync(join(master.folder, 'go'), '')
    const end = await master.told('speaker', ENDED)
    t.match(end, { code: 7, signal: null, backend, peerPid: pid })
    t.same(master.spoken(backend), ['begin', ...Array.from({ length: 500 }, (_, index) => String(index + 1))])
    t.ok((end['livedMs'] as number) > 0)
    t.notOk(existsSync(`/proc/${pid}`), 'it was reaped')
    await master.ask('pass', 'passed')
    await master.told('speaker', 'backend process started', (line) => line['backend'] !== backend)
    // Its successor prints everything again.
    await master.told('speaker', PAUSE, ({ delayMs }) => delayMs === 200)
  })

  await t.test('reaps a process that exited meanwhile, and logs its last output', async (t) => {
    const { backend, pid } = of('mortal')
    await master.ask('exec over the dead', 'up again')
    t.match(await master.told('mortal', ENDED), { code: 9, signal: null, backend })
    t.same(master.spoken(backend, ['stdout', 'stderr']), ['up', 'last'])
    t.notOk(existsSync(`/proc/${pid}`), 'it was reaped')
  })

  await t.test('signals its processes, and has lost none of their lines', async (t) => {
    const counters = before.filter(({ service }) => service === 'counter')
    t.equal(counters.length, 2)
    for (const { backend } of counters)
      await master.told('counter', '11', (line) => line['backend'] === backend)
    await master.ask('stop', 'stopped')
    t.match(await master.told('deaf', ENDED), { signal: 'SIGKILL', code: null })
    for (const { backend } of counters) {
      const lines = master.spoken(backend)
      t.same(
        lines,
        Array.from({ length: lines.length }, (_, index) => String(index + 1)),
      )
    }
    await master.program.exited
  })
})
