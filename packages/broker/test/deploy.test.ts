import assert from 'node:assert/strict'
import { tmpdir } from 'node:os'
import * as fc from 'fast-check'
import { pino } from 'pino'
import t from 'tap'
import { parseConfig } from '../src/config/config.ts'
import { Deployer, type DeployerParts } from '../src/master/deploy/deployer.ts'
import type { CanaryPlan } from '../src/master/deploy/deploy.ts'
import { startDeploy, startReturn } from '../src/master/deploy/rolling-deploy.ts'
import type { DeployProgress } from '../src/master/deploy/messages.ts'
import type { BackendReport } from '../src/master/fleet/backend-report.ts'
import { Fleet } from '../src/master/fleet/fleet.ts'
import { VirtualOs, type VirtualProcess } from './virtual-fleet.ts'

/** A fleet without processes, and a broker whose list is set by the test. */
class Scene {
  readonly os = new VirtualOs()
  readonly drains: string[] = []
  readonly progress: string[] = []
  readonly fleet: Fleet
  #reports: BackendReport[] = []

  constructor(instances: number, version = '1') {
    this.fleet = new Fleet({
      logger: pino({ level: 'silent' }),
      os: this.os,
      socket: '/run/control.sock',
      env: {},
      master: {},
      workers: { drain: (_service, id) => void this.drains.push(id) },
    })
    const { services } = this.config(instances, version)
    this.fleet.apply({ services, base: tmpdir(), drainDeadline: 30_000 })
    for (const process of this.os.running) this.says(process, 'ready')
  }

  config(instances: number, version: string, minHealthy = 1000) {
    return parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: { command: ['app'], instances, minHealthy, env: { BATON_VERSION: version } } },
    })
  }

  deploy(version = '2', more: { atOnce?: number; canary?: CanaryPlan } = {}) {
    const service = this.config(2, version).services.get('web')!
    return startDeploy(this.fleet, { ...this.#options(service), ...more })
  }

  return() {
    return startReturn(this.fleet, this.#options(this.config(2, '1').services.get('web')!))
  }

  /** From now on the broker lists it in this state; undefined: not at all. */
  says(process: VirtualProcess, state: BackendReport['state'] | undefined): void {
    this.lists({ id: process.id, pid: process.pid, state })
  }

  /** The same for any backend. */
  lists(
    report: Partial<Omit<BackendReport, 'state'>> & {
      id: string
      state?: BackendReport['state'] | undefined
    },
  ): void {
    const { state, ...rest } = { state: 'ready' as const, ...report }
    this.#reports = this.#reports.filter(({ id }) => id !== report.id)
    if (state !== undefined) {
      this.#reports.push({ service: 'web', slot: 'web-1', pid: 1, ...rest, state })
    }
    this.fleet.reported(this.#reports)
  }

  /** Exits like a well-behaved old process: drained, SIGTERM, gone. */
  leave(process: VirtualProcess): void {
    this.says(process, 'draining')
    this.says(process, undefined)
    process.exit()
  }

  /** Instance, version and state of every process. */
  get shape(): string[] {
    return this.fleet.statuses().map(({ instance, version, state }) => `${instance} v${version} ${state}`)
  }

  #options(service: Parameters<typeof startDeploy>[1]['service']) {
    return {
      service,
      base: tmpdir(),
      clock: this.os,
      progress: ({ step, instance }: DeployProgress) => void this.progress.push(`${instance} ${step}`),
    }
  }
}

void t.test('instance by instance: start, ready for minHealthy, drain, stop, next', async (t) => {
  const scene = new Scene(2)
  const [one, two] = scene.os.processes as [VirtualProcess, VirtualProcess]
  const { done } = scene.deploy()
  t.same(scene.shape, ['web.1 v1 running', 'web.2 v1 running', 'web.1 v2 starting'])
  const first = scene.os.last
  scene.os.advance(5000)
  scene.says(first, 'starting')
  scene.says(first, 'ready')
  scene.os.advance(999)
  t.same(scene.drains, [], 'no old one is touched before')
  scene.os.advance(1)
  t.same(scene.drains, [one.id])
  t.same(scene.shape, ['web.1 v2 running', 'web.2 v1 running', 'web.1 v1 stopping'])
  t.same(one.signals, [], 'a drain comes first')
  scene.says(one, 'draining')
  t.same(one.signals, [])
  scene.says(one, undefined)
  t.same(one.signals, ['SIGTERM'])
  t.equal(scene.os.processes.length, 3, 'the next one waits for its end')
  one.exit()
  t.equal(scene.os.processes.length, 4)
  scene.says(scene.os.last, 'ready')
  scene.os.advance(1000)
  scene.leave(two)
  t.same(await done, { success: true, replaced: 2 })
  t.same(scene.shape, ['web.1 v2 running', 'web.2 v2 running'])
  t.same(scene.progress, [
    'web.1 started',
    'web.1 ready',
    'web.1 draining',
    'web.1 stopped',
    'web.2 started',
    'web.2 ready',
    'web.2 draining',
    'web.2 stopped',
    'web done',
  ])
  t.equal(scene.os.timers, 0)
  first.exit({ code: 1, signal: null })
  scene.os.advance(100)
  t.equal(scene.os.last.env['BATON_BACKEND_ID']?.length, 26)
  t.same(scene.shape, ['web.1 v2 running', 'web.2 v2 running'], 'a restart is the new version')
})

void t.test('a drop of readiness restarts the wait', async (t) => {
  const scene = new Scene(1)
  const { done } = scene.deploy()
  const candidate = scene.os.last
  scene.says(candidate, 'ready')
  scene.os.advance(900)
  scene.says(candidate, 'unresponsive')
  scene.says(candidate, 'ready')
  scene.os.advance(900)
  t.same(scene.drains, [])
  scene.os.advance(100)
  t.same(scene.drains, [scene.os.processes[0]?.id])
  scene.leave(scene.os.processes[0] as VirtualProcess)
  t.equal((await done).success, true)
})

void t.test(
  'a new version that exits at start: nothing else changes, and its last output is reported',
  async (t) => {
    const scene = new Scene(2)
    const { done } = scene.deploy()
    scene.os.last.write('listening\nno such file: key.pem')
    scene.os.last.exit({ code: 1, signal: null })
    t.same(await done, {
      success: false,
      reason: 'web.1 exited with code 1',
      output: ['listening', 'no such file: key.pem'],
      aborted: false,
      returned: true,
    })
    t.same(scene.shape, ['web.1 v1 running', 'web.2 v1 running'])
    scene.os.advance(120_000)
    t.equal(scene.os.processes.length, 3, 'it is not started again')
    t.same(scene.drains, [])
  },
)

void t.test('a new version that cannot be started, or is killed', async (t) => {
  const scene = new Scene(1)
  const missing = scene.deploy()
  scene.os.last.exit({ code: null, signal: null, error: 'spawn app ENOENT' })
  t.match(await missing.done, {
    reason: 'web.1 could not be started: spawn app ENOENT',
    output: ['spawn app ENOENT'],
  })
  const killed = scene.deploy()
  scene.os.last.exit({ code: null, signal: 'SIGSEGV' })
  t.match(await killed.done, { reason: 'web.1 was killed by SIGSEGV' })
})

void t.test('a new version that is not ready in time', async (t) => {
  for (const [state, reason] of [
    [undefined, 'web.1 did not register with the broker within 61s'],
    ['starting', 'web.1 was not ready within 61s; the broker reports it as starting'],
  ] as const) {
    const scene = new Scene(2)
    const { done } = scene.deploy()
    const candidate = scene.os.last
    scene.says(candidate, state)
    scene.os.advance(60_999)
    t.same(candidate.signals, [])
    scene.os.advance(1)
    t.match(await done, { success: false, reason, returned: true })
    if (state === undefined) t.same(candidate.signals, ['SIGTERM'])
    else t.same(scene.drains, [candidate.id], 'a process that the broker lists is drained first')
    t.same(scene.shape, ['web.1 v1 running', 'web.2 v1 running', 'web.1 v2 stopping'])
  }
})

void t.test('a new version that flaps misses the deadline', async (t) => {
  const scene = new Scene(1)
  const { done } = scene.deploy()
  for (let second = 0; second < 61; second++) {
    scene.says(scene.os.last, 'ready')
    scene.os.advance(500)
    scene.says(scene.os.last, 'unresponsive')
    scene.os.advance(500)
  }
  t.match(await done, { success: false, reason: /unresponsive/ })
})

void t.test('a new version that fails its health check', async (t) => {
  const scene = new Scene(2)
  const { done } = scene.deploy()
  scene.says(scene.os.last, 'unhealthy')
  t.match(await done, { success: false, reason: 'web.1 failed its health check', returned: true })
})

void t.test(
  'a failure in the second step keeps the current processes, and a rollback reverts the first step',
  async (t) => {
    const scene = new Scene(2)
    const { done } = scene.deploy()
    scene.says(scene.os.last, 'ready')
    scene.os.advance(1000)
    scene.leave(scene.os.processes[0] as VirtualProcess)
    scene.os.last.exit({ code: 1, signal: null })
    t.match(await done, { success: false, reason: 'web.2 exited with code 1', returned: false })
    t.same(scene.shape, ['web.1 v2 running', 'web.2 v1 running'])
    const back = scene.return()
    scene.says(scene.os.last, 'ready')
    scene.os.advance(1000)
    scene.leave(scene.os.processes[2] as VirtualProcess)
    t.same(await back.done, { success: true, replaced: 1 })
    t.same(scene.shape, ['web.1 v1 running', 'web.2 v1 running'])
    t.same(await scene.return().done, { success: true, replaced: 0 }, 'nothing is left to return')
  },
)

void t.test(
  'a new process that exits after it has taken over fails the deploy, and is started again',
  async (t) => {
    const scene = new Scene(2)
    const { done } = scene.deploy()
    const first = scene.os.last
    scene.says(first, 'ready')
    scene.os.advance(1000)
    first.exit({ code: 3, signal: null })
    t.match(await done, { reason: 'web.1 exited with code 3 after taking over', returned: false })
    t.same(scene.shape, ['web.1 v2 backoff', 'web.2 v1 running', 'web.1 v1 stopping'])
    scene.os.advance(100)
    t.match(scene.shape, ['web.1 v2 running'])
  },
)

void t.test('abort while a new process starts: it stops, and replaced ones are rolled back', async (t) => {
  const scene = new Scene(2)
  const deploy = scene.deploy()
  const first = scene.os.last
  scene.says(first, 'ready')
  scene.os.advance(1000)
  scene.leave(scene.os.processes[0] as VirtualProcess)
  const second = scene.os.last
  deploy.abort()
  deploy.abort()
  t.same(second.signals, ['SIGTERM'])
  second.exit()
  const returned = scene.os.last
  t.same(scene.shape, ['web.1 v2 running', 'web.2 v1 running', 'web.1 v1 starting'])
  scene.says(returned, 'ready')
  scene.os.advance(1000)
  scene.leave(first)
  t.same(await deploy.done, {
    success: false,
    reason: 'aborted',
    output: [],
    aborted: true,
    returned: true,
  })
  t.same(scene.shape, ['web.1 v1 running', 'web.2 v1 running'])
  deploy.abort()
})

void t.test('abort before anything was replaced, and while an old one drains', async (t) => {
  const early = new Scene(1)
  const first = early.deploy()
  first.abort()
  t.match(await first.done, { aborted: true, returned: true })

  const late = new Scene(1)
  const second = late.deploy()
  const replacement = late.os.last
  late.says(replacement, 'ready')
  late.os.advance(1000)
  second.abort()
  t.same(late.shape, ['web.1 v2 running', 'web.1 v1 starting', 'web.1 v1 stopping'])
  late.says(late.os.last, 'ready')
  late.os.advance(1000)
  late.leave(late.os.processes[0] as VirtualProcess)
  late.leave(replacement)
  t.match(await second.done, { aborted: true, returned: true })
  t.same(late.shape, ['web.1 v1 running'])
})

void t.test('an abort reports that the old version does not start', async (t) => {
  const scene = new Scene(1)
  const deploy = scene.deploy()
  scene.says(scene.os.last, 'ready')
  scene.os.advance(1000)
  deploy.abort()
  scene.os.last.exit({ code: 9, signal: null })
  t.match(await deploy.done, { reason: 'web.1 exited with code 9', aborted: true, returned: false })
})

void t.test('two at a time: none is drained before both are ready', async (t) => {
  const scene = new Scene(2)
  const { done } = scene.deploy('2', { atOnce: 2 })
  const [, , first, second] = scene.os.processes
  scene.says(first!, 'ready')
  scene.os.advance(1500)
  scene.says(second!, 'ready')
  scene.os.advance(999)
  t.same(scene.drains, [])
  scene.os.advance(1)
  t.equal(scene.drains.length, 2)
  scene.leave(scene.os.processes[1] as VirtualProcess)
  scene.leave(scene.os.processes[0] as VirtualProcess)
  t.equal((await done).success, true)
})

void t.test('a version in a crash loop is replaced without waiting for it', async (t) => {
  const scene = new Scene(1)
  for (let exits = 0; exits < 8; exits++) {
    scene.says(scene.os.last, undefined)
    scene.os.last.exit({ code: 1, signal: null })
    if (exits < 7) scene.os.advance(7000)
  }
  t.same(scene.shape, ['web.1 v1 crashed'])
  const { done } = scene.deploy()
  scene.says(scene.os.last, 'ready')
  scene.os.advance(1000)
  t.same(await done, { success: true, replaced: 1 })
  t.equal(scene.os.running.length, 1)
  t.same(scene.shape, ['web.1 v2 running'])
  t.equal(scene.os.timers, 0, 'the old one is no longer retried')
})

void t.test('backends that were not replaced fail the deploy, by name', async (t) => {
  const deployed = async (...others: Partial<BackendReport>[]) => {
    const scene = new Scene(1)
    const [first] = scene.os.running as [VirtualProcess]
    for (const [index, other] of others.entries()) scene.lists({ id: `OTHER${index}`, ...other })
    const { done } = scene.deploy()
    scene.says(scene.os.last, 'ready')
    scene.os.advance(1000)
    scene.leave(first)
    return { scene, done }
  }

  await t.test('of an earlier deploy, or not started by Baton', async (t) => {
    for (const owner of ['AN EARLIER ONE', null]) {
      const { scene, done } = await deployed({ owner, slot: 'web-2', pid: 77 })
      scene.os.advance(9999)
      t.ok(scene.fleet.deploying, 'it may still be exiting')
      scene.os.advance(1)
      t.same(await done, {
        success: false,
        reason: 'web still has backends that this deploy did not replace: web-2 (pid 77, backend OTHER0)',
        output: [],
        aborted: false,
        returned: false,
        complete: true,
      })
      t.same(scene.shape, ['web.1 v2 running'])
      t.equal(scene.fleet.service('web')?.stable.number, 2, 'the new version is running')
    }
  })
  await t.test('many: some are named, and counted', async (t) => {
    const others = Array.from({ length: 7 }, (_, index) => ({ pid: 70 + index }))
    const { scene, done } = await deployed(...others)
    scene.os.advance(10_000)
    t.match(await done, { reason: /pid 70.*pid 74, backend OTHER4\), 2 more$/ })
  })
  await t.test('one that drains is waited for', async (t) => {
    const { scene, done } = await deployed({ state: 'draining' })
    scene.os.advance(39_999)
    t.ok(scene.fleet.deploying)
    scene.lists({ id: 'OTHER0', state: undefined })
    t.same(await done, { success: true, replaced: 1 })
    t.equal(scene.os.timers, 0)
    const late = await deployed({ state: 'draining' })
    late.scene.os.advance(40_000)
    t.match(await late.done, { success: false, complete: true })
  })
  await t.test('further backends of an instance, and of other services, do not count', async (t) => {
    const { scene, done } = await deployed({ service: 'api' })
    t.same(await done, { success: true, replaced: 1 })
    const [second] = scene.os.running as [VirtualProcess]
    const again = scene.deploy('3')
    const third = scene.os.last
    scene.lists({ id: 'A THREAD OF ITS', owner: third.id })
    scene.says(third, 'ready')
    scene.os.advance(1000)
    scene.leave(second)
    t.same(await again.done, { success: true, replaced: 1 })
  })
})

void t.test('a deploy and everything else that moves processes exclude each other', async (t) => {
  const scene = new Scene(1)
  const deploy = scene.deploy()
  const config = { services: scene.config(1, '1').services, base: tmpdir(), drainDeadline: 1000 }
  t.throws(() => scene.deploy(), { code: 'BATON_ERR_DEPLOY_RUNNING' })
  t.throws(() => scene.fleet.apply(config), { code: 'BATON_ERR_DEPLOY_RUNNING' })
  t.throws(() => scene.fleet.serialize(), { code: 'BATON_ERR_DEPLOY_RUNNING' })
  const stopped = scene.fleet.stop(1000)
  t.match(await deploy.done, { success: false, reason: 'the broker is stopping' })
  for (const process of scene.os.running) process.exit()
  await stopped
  t.throws(() => scene.deploy(), { code: 'BATON_ERR_NOT_MANAGED' })
})

void t.test('a changed definition waits for a deploy; scaling does not', async (t) => {
  const scene = new Scene(2)
  const apply = (instances: number, version: string) =>
    scene.fleet.apply({ ...scene.config(instances, version), base: tmpdir(), drainDeadline: 30_000 })
  apply(3, '2')
  t.same(scene.shape, ['web.1 v1 running', 'web.2 v1 running', 'web.3 v1 running'])
  apply(1, '2')
  t.match(scene.shape, ['web.1 v1 running', 'web.2 v1 stopping', 'web.3 v1 stopping'])
  t.same(scene.drains, [scene.os.processes[1]?.id], 'the broker does not list the third one yet')
  t.same(scene.os.processes[2]?.signals, ['SIGTERM'])
  apply(2, '2')
  t.equal(scene.os.running.length, 4, 'a place is free at once')
})

void t.test(
  'after a re-execution, leaving processes still leave, and waits continue where they were',
  async (t) => {
    const scene = new Scene(2)
    scene.fleet.apply({ ...scene.config(1, '1'), base: tmpdir(), drainDeadline: 30_000 })
    scene.os.processes[0]?.exit({ code: 1, signal: null })
    const { state } = scene.fleet.serialize()
    const os = new VirtualOs()
    const drains: string[] = []
    const fleet = Fleet.restore(JSON.parse(JSON.stringify(state)), {
      logger: pino({ level: 'silent' }),
      os,
      socket: '/run/control.sock',
      env: {},
      master: {},
      workers: { drain: (_service, id) => void drains.push(id) },
    })
    fleet.apply({ ...scene.config(1, '1'), base: tmpdir(), drainDeadline: 30_000 })
    t.match(fleet.statuses(), [
      { instance: 'web.1', state: 'backoff', backend: null, generation: 1 },
      { instance: 'web.2', state: 'stopping', backend: scene.os.processes[1]?.id },
    ])
    os.advance(99)
    t.equal(os.running.length, 1)
    os.advance(1)
    t.equal(os.running.length, 2)
    os.advance(29_899)
    t.same(os.processes[0]?.signals, [])
    os.advance(1)
    t.same(os.processes[0]?.signals, ['SIGTERM'], 'the drain’s deadline continues')
    os.advance(10_000)
    t.same(os.processes[0]?.signals, ['SIGTERM', 'SIGKILL'])
    t.throws(() => Fleet.restore({ services: 1 }, {} as never), { name: 'ZodError' })
  },
)

void t.test('in any case, no slot is emptied by a deploy, and nothing is left over', async () => {
  const happening = fc.record({
    what: fc.constantFrom('ready', 'starting', 'unhealthy', 'gone', 'exit', 'time', 'abort'),
    who: fc.nat(),
    time: fc.constantFrom(10, 500, 1000, 30_000),
  })
  await fc.assert(
    fc.asyncProperty(
      fc.array(happening, { maxLength: 60 }),
      fc.integer({ min: 1, max: 3 }),
      async (events, atOnce) => {
        const scene = new Scene(3)
        const deploy = scene.deploy('2', { atOnce })
        for (const { what, who, time } of events) {
          const process = scene.os.running[who % scene.os.running.length]
          if (process === undefined || what === 'time') scene.os.advance(time)
          else if (what === 'abort') deploy.abort()
          else if (what === 'exit') {
            scene.says(process, undefined)
            process.exit({ code: 1, signal: null })
          } else scene.says(process, what === 'gone' ? undefined : what)
          const places = scene.fleet
            .statuses()
            .filter(({ state }) => !['starting', 'stopping'].includes(state))
          assert.equal(new Set(places.map(({ instance }) => instance)).size, 3)
          for (const { state, pid } of places) {
            const holder = scene.os.processes.find((candidate) => candidate.pid === pid)
            if (state === 'running') assert.ok(holder?.running && holder.signals.length === 0, 'told to end')
          }
        }
        // From here on all processes behave well.
        for (let turn = 0; turn < 40; turn++) {
          for (const process of scene.os.running) {
            if (process.signals.length > 0) {
              scene.says(process, undefined)
              process.exit()
            } else scene.says(process, 'ready')
          }
          scene.os.advance(30_000)
        }
        await deploy.done
        assert.ok(!scene.fleet.deploying)
        assert.equal(scene.os.running.length, 3)
        assert.equal(scene.os.timers, 0)
      },
    ),
    { numRuns: 300 },
  )
})

void t.test('an abort without anything to abort says so, and changes nothing', async (t) => {
  const scene = new Scene(2)
  const started = scene.os.running.length
  const { services } = scene.config(2, '1')
  const parts = { fleet: scene.fleet, activeConfig: { config: { services } } }
  const deployer = new Deployer(parts as unknown as DeployerParts)
  const command = { service: 'web', atOnce: 1, abort: true, by: 'uid 0', progress: () => {} }
  t.same(await deployer.deploy(command), {
    success: true,
    log: ['web: nothing to abort: no deploy is in progress, and no instance is of a new version'],
  })
  t.equal(scene.os.running.length, started)
})

/** A deploy whose first step is a canary, on a fleet of two. */
class CanaryScene extends Scene {
  /** Shares of the new version, and drains, in order. */
  readonly steps: unknown[] = []
  readonly old: readonly VirtualProcess[]
  readonly #totals = new Map<string, NonNullable<BackendReport['tally']>>()

  constructor() {
    super(2)
    this.old = this.os.running
    for (const process of this.old) this.counts(process, {})
  }

  try(atOnce = 1, time = 60_000) {
    const shift = (share: number | undefined) => void this.steps.push(share, this.drains.length)
    return this.deploy('2', { atOnce, canary: { share: 500, time, version: '2', shift } })
  }

  /** Ready, with so much more than before. */
  counts(
    process: VirtualProcess,
    more: Partial<NonNullable<BackendReport['tally']>>,
    report: Partial<BackendReport> = {},
  ): void {
    const before = this.#totals.get(process.id) ?? { adopted: 0, failures: 0, checks: 0, failedChecks: 0 }
    const tally = { ...before }
    for (const key of ['adopted', 'failures', 'checks', 'failedChecks'] as const) tally[key] += more[key] ?? 0
    this.#totals.set(process.id, tally)
    const version = this.old.includes(process) ? '1' : '2'
    this.lists({ id: process.id, pid: process.pid, state: 'ready', version, tally, ...report })
  }

  /** As a worker counts that follows one that has died. */
  forgetCounts(): void {
    this.#totals.clear()
  }

  /** The canary has been ready for minHealthy. */
  begun(): VirtualProcess {
    const { last } = this.os
    this.counts(last, {})
    this.os.advance(1000)
    return last
  }
}

void t.test(
  'a canary that is no worse takes over at the end of its time, and the deploy goes on',
  async (t) => {
    const scene = new CanaryScene()
    const { done } = scene.try()
    t.same(scene.steps, [0, 0], 'nothing before it is ready')
    const first = scene.begun()
    t.same(scene.steps, [0, 0, 500, 0])
    for (let second = 0; second < 60; second++) {
      for (const process of scene.old) scene.counts(process, { adopted: 50, failures: 1, checks: 1 })
      scene.counts(first, { adopted: 5, checks: 1, failedChecks: second === 30 ? 1 : 0 })
      t.same(scene.drains, [], 'the old version stays')
      scene.os.advance(1000)
    }
    t.same(scene.steps, [0, 0, 500, 0, undefined, 0])
    t.same(scene.drains, [scene.old[0]?.id])
    scene.leave(scene.old[0] as VirtualProcess)
    scene.counts(scene.os.last, {})
    scene.os.advance(1000)
    t.equal(scene.drains.length, 2, 'the other steps are no canaries')
    scene.leave(scene.old[1] as VirtualProcess)
    t.same(await done, { success: true, replaced: 2 })
    t.same(
      scene.progress.filter((line) => line.startsWith('web ')),
      ['web canary', 'web canary', 'web done'],
    )
  },
)

const worseCanaries: readonly [
  how: string,
  reason: RegExp,
  act: (scene: CanaryScene, canary: VirtualProcess) => void,
][] = [
  [
    'fails two health checks',
    /failed 2 of 2 health checks \(the old version 0 of 0\)$/,
    (scene, canary) => {
      scene.counts(canary, { checks: 1, failedChecks: 1 })
      scene.counts(canary, { checks: 1, failedChecks: 1 })
    },
  ],
  [
    'fails more handoffs than the old version',
    /failed 20 of 120 handoffs \(the old version 40 of 440\)$/,
    (scene, canary) => {
      scene.counts(scene.old[0] as VirtualProcess, { adopted: 400, failures: 40 })
      scene.counts(canary, { adopted: 100, failures: 9 })
      scene.counts(canary, { failures: 11 })
    },
  ],
  [
    'stays unhealthy',
    /is not ready \(unhealthy\)$/,
    (scene, canary) => {
      scene.counts(canary, {}, { state: 'unhealthy' })
      scene.os.advance(2999)
      scene.counts(canary, {}, { state: 'unhealthy' })
      scene.os.advance(1)
      scene.counts(canary, {}, { state: 'unhealthy' })
    },
  ],
  [
    'does not answer for 3 s',
    /is not ready \(unresponsive\)$/,
    (scene, canary) => {
      scene.counts(canary, {}, { state: 'unresponsive' })
      scene.os.advance(3000)
      scene.counts(canary, {}, { state: 'unresponsive' })
    },
  ],
  [
    'reports another version',
    /reports 1\.9: its app must take the version from BATON_VERSION$/,
    (scene, canary) => scene.counts(canary, {}, { version: '1.9' }),
  ],
]
for (const [how, reason, act] of worseCanaries) {
  void t.test(`a canary that ${how} is drained, and the old version gets everything`, async (t) => {
    const scene = new CanaryScene()
    const { done } = scene.try()
    const canary = scene.begun()
    act(scene, canary)
    t.match(await done, { success: false, reason, returned: true, aborted: false })
    t.same(scene.drains, [canary.id])
    t.same(scene.steps, [0, 0, 500, 0, undefined, 1], 'its share ends when it drains, and not before')
    t.match(scene.shape, ['web.1 v1 running', 'web.2 v1 running', 'web.1 v2 stopping'])
    scene.leave(canary)
    t.equal(scene.os.timers, 0)
  })
}

void t.test('a canary that exits, or is aborted', async (t) => {
  const exits = new CanaryScene()
  const first = exits.try()
  exits.begun().exit({ code: 7, signal: null })
  t.match(await first.done, { success: false, reason: 'web.1 exited with code 7', returned: true })
  t.same(exits.steps.at(-2), undefined)

  const aborted = new CanaryScene()
  const second = aborted.try()
  const canary = aborted.begun()
  second.abort()
  t.same(aborted.steps, [0, 0, 500, 0, undefined, 1])
  aborted.leave(canary)
  t.match(await second.done, { aborted: true, returned: true })
  t.same(aborted.drains, [canary.id])
})

void t.test('a canary is as good as the old version if both fail, and if a worker has died', async (t) => {
  const scene = new CanaryScene()
  const { done } = scene.try(2)
  const canaries = scene.os.running.filter((process) => !scene.old.includes(process))
  t.equal(canaries.length, 2)
  for (const process of canaries) scene.counts(process, {})
  scene.os.advance(1000)
  for (const process of [...scene.old, ...canaries])
    scene.counts(process, { checks: 3, failedChecks: 3 }, { state: 'unhealthy' })
  scene.os.advance(20_000)
  for (const process of [...scene.old, ...canaries]) scene.counts(process, { adopted: 100, checks: 1 })
  scene.forgetCounts()
  for (const process of [...scene.old, ...canaries]) scene.counts(process, { adopted: 1 })
  t.same(scene.steps, [0, 0, 500, 0])
  t.ok(scene.fleet.deploying)
  const [first, second] = canaries as [VirtualProcess, VirtualProcess]
  scene.counts(first, {}, { state: 'unresponsive' })
  scene.os.advance(40_000)
  t.same(scene.drains, [], 'it must be ready at the end')
  scene.counts(first, {})
  t.equal(scene.drains.length, 2)
  t.ok(second.running)
  for (const process of scene.old) scene.leave(process)
  t.same(await done, { success: true, replaced: 2 })
})

void t.test('a canary without two versions is refused, and nothing changes', async (t) => {
  const cases: readonly [version: string | undefined, running: string | null | undefined, why: RegExp][] = [
    ['1', '1', /version 1 of service web is running already; change BATON_VERSION in its env/],
    ['2', undefined, /no backend of service web is running/],
    [undefined, '1', /the env of service web has no BATON_VERSION/],
    ['2 beta', '1', /BATON_VERSION of service web: a version has 1 to 128/],
  ]
  for (const [version, running, why] of cases) {
    const scene = new Scene(1)
    const [process] = scene.os.running as [VirtualProcess]
    scene.lists({
      id: process.id,
      version: running ?? null,
      ...(running === undefined && { state: undefined }),
    })
    const { services } = parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: { command: ['app'], env: version === undefined ? {} : { BATON_VERSION: version } } },
    })
    const parts = {
      fleet: scene.fleet,
      activeConfig: { config: { services }, settings: { file: `${tmpdir()}/baton.json` } },
      files: { ensure: () => {} },
      operationLock: { claim: () => {}, begin: () => {}, end: () => {} },
      logger: pino({ level: 'silent' }),
      shifts: { of: () => undefined, set: () => t.fail('shifted') },
      workerPool: { reportChange: () => {} },
    }
    const deployer = new Deployer(parts as unknown as DeployerParts)
    const canary = { share: 500, time: 1000 }
    const command = { service: 'web', atOnce: 1, abort: false, canary, by: 'uid 0', progress: () => {} }
    const { success, log } = await deployer.deploy(command)
    t.notOk(success)
    t.equal(log.length, 1)
    t.match(log[0], why)
    t.match(log[0], /\(BATON_ERR_NO_CANARY\)$/)
    t.equal(scene.os.processes.length, 1)
  }
})
