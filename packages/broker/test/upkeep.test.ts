import { tmpdir } from 'node:os'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import type { Change } from '../src/api/events.ts'
import { parseConfig } from '../src/config/config.ts'
import type { BackendReport } from '../src/master/fleet/backend-report.ts'
import { Fleet } from '../src/master/fleet/fleet.ts'
import { OperationLock } from '../src/master/operation-lock.ts'
import { Upkeep, type UpkeepParts } from '../src/master/replace/upkeep.ts'
import { scale } from '../src/master/scale/scaler.ts'
import { VirtualOs, type VirtualProcess } from './virtual-fleet.ts'

const MIB = 1024 ** 2
const MINUTE = 60_000

/** A fleet without processes, whose reports and memory are set by the test. */
class Scene {
  readonly os = new VirtualOs()
  readonly lock = new OperationLock()
  readonly changes: Change[] = []
  readonly log: Record<string, unknown>[] = []
  readonly counted: string[] = []
  /** In MiB, by pid. */
  readonly memory = new Map<number, number>()
  readonly fleet: Fleet
  readonly parts: UpkeepParts & { readonly files: { ensure(): void } }
  #upkeep!: Upkeep
  #reports: BackendReport[] = []

  private constructor(settings: Record<string, unknown>) {
    const logger = pino(
      {},
      { write: (line: string) => void this.log.push(JSON.parse(line) as Record<string, unknown>) },
    )
    const { os } = this
    const workers = { drain: (): void => {} }
    this.fleet = new Fleet({ logger, os, socket: '/run/control.sock', env: {}, master: {}, workers })
    const config = parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: { command: ['app'], minHealthy: '1s', maxMemory: '100M', ...settings } },
    })
    this.fleet.apply({ services: config.services, base: tmpdir(), drainDeadline: 30_000 })
    this.lock.end('start')
    this.parts = {
      fleet: this.fleet,
      activeConfig: { config },
      operationLock: this.lock,
      files: { ensure: () => {} },
      logger,
      counters: { replaced: (...words) => void this.counted.push(words.join(' ')) },
      workerPool: { reportChange: (change) => void this.changes.push(change) },
      clock: os,
      memoryOf: (pid) => (this.memory.get(pid) ?? 0) * MIB,
    }
  }

  static async begin(
    t: Test,
    settings: Record<string, unknown> = {},
    firstLook: 'early' | 'late' = 'early',
  ): Promise<Scene> {
    const scene = new Scene(settings)
    scene.#upkeep = await Upkeep.start(scene.parts)
    t.teardown(() => scene.#upkeep.close())
    if (firstLook === 'late') return scene
    scene.look()
    for (const process of scene.os.running) scene.says(process, 'ready')
    scene.look()
    return scene
  }

  /** A look, and `ms` later. */
  look(ms = 1000): void {
    this.#upkeep.look()
    this.os.advance(ms)
  }

  says(process: VirtualProcess, state: BackendReport['state'] | undefined): void {
    this.#reports = this.#reports.filter(({ id }) => id !== process.id)
    const { id, pid } = process
    if (state !== undefined) this.#reports.push({ service: 'web', slot: 'web-1', id, pid, state })
    this.fleet.reported(this.#reports)
  }

  /** The successor is ready for long enough. @returns it */
  takeOver(): VirtualProcess {
    const { last } = this.os
    this.says(last, 'ready')
    this.os.advance(1000)
    return last
  }

  leave(process: VirtualProcess): void {
    this.says(process, undefined)
    process.exit()
  }

  get codes(): unknown[] {
    return this.log.flatMap(({ code }) => (typeof code === 'string' ? [code] : []))
  }
}

void t.test('one at a time, the successor first, and not at once again', async (t) => {
  const scene = await Scene.begin(t, { instances: 2 })
  const [one, two] = scene.os.processes as [VirtualProcess, VirtualProcess]
  for (let looks = 0; looks < 5; looks++) scene.look()
  for (const { pid } of [one, two]) scene.memory.set(pid, 101)
  scene.look()
  t.equal(scene.os.processes.length, 3)
  t.equal(scene.lock.activity, 'replacement')
  scene.look()
  const successor = scene.takeOver()
  t.equal(scene.lock.activity, undefined, 'the drain of the old one holds nothing up')
  t.same(scene.counted, ['web memory success'])
  for (let looks = 0; looks < 10; looks++) scene.look()
  t.equal(scene.os.processes.length, 3, 'the next one waits until the old one has gone')
  scene.leave(one)
  scene.look()
  t.equal(scene.os.processes.length, 4)
  t.equal(scene.os.last.env['BATON_BACKEND_ID']?.length, 26)
  scene.takeOver()
  scene.leave(two)
  scene.memory.set(successor.pid, 200)
  scene.look(4000)
  t.equal(scene.os.processes.length, 4, 'five seconds after the last one')
  scene.os.advance(1000)
  scene.look()
  t.equal(scene.os.processes.length, 5)
  t.same(scene.codes, [])
  t.match(scene.changes[0], {
    kind: 'replace',
    service: 'web',
    reason: 'memory',
    text: 'web.1 is being replaced: 101 MiB, maxMemory is 100 MiB',
  })
})

void t.test('a process that is above the limit from the start: pauses that double', async (t) => {
  const scene = await Scene.begin(t)
  let current = scene.os.last
  scene.memory.set(current.pid, 300)
  scene.look()
  for (const minutes of [1, 2, 4]) {
    t.match(scene.log.at(-1), { code: 'BATON_ERR_MEMORY_LIMIT', pauseMs: minutes * MINUTE })
    t.match(scene.changes.at(-1), { kind: 'replace', reason: 'memory', text: /next attempt in/ })
    const { length } = scene.os.processes
    scene.os.advance(minutes * MINUTE - 3000)
    scene.look()
    t.equal(scene.os.processes.length, length, `not within ${minutes} minutes`)
    scene.os.advance(3000)
    scene.look()
    t.equal(scene.os.processes.length, length + 1)
    scene.memory.set(scene.os.last.pid, 300)
    const former = current
    current = scene.takeOver()
    scene.leave(former)
    scene.look()
  }
  t.equal(new Set(scene.codes).size, 1)
  t.equal(scene.codes.length, 4)
})

void t.test('a first look that comes late: what is above the limit then was so from the start', async (t) => {
  // A busy master looked for the first time when the process had been ready for some seconds, and replaced it in vain.
  const scene = await Scene.begin(t, {}, 'late')
  const [process] = scene.os.processes as [VirtualProcess]
  scene.memory.set(process.pid, 101)
  scene.says(process, 'ready')
  scene.os.advance(10_000)
  scene.look()
  t.same(scene.codes, ['BATON_ERR_MEMORY_LIMIT'])
  t.equal(scene.os.processes.length, 1)
})

void t.test('a successor that fails: the old one stays, and the next attempt is later', async (t) => {
  const scene = await Scene.begin(t)
  const [one] = scene.os.processes as [VirtualProcess]
  for (let looks = 0; looks < 5; looks++) scene.look()
  scene.memory.set(one.pid, 101)
  scene.look()
  scene.os.last.write('no luck\n')
  scene.os.last.exit({ code: 3, signal: null })
  t.same(scene.counted, ['web memory failure'])
  const line = scene.log.find(({ code }) => code === 'BATON_ERR_NOT_REPLACED')
  t.match(line, { reason: 'memory', instance: 'web.1', output: ['no luck'], pauseMs: MINUTE })
  t.match(line?.['msg'], /web\.1 exited with code 3$/)
  t.ok(one.running)
  t.same(one.signals, [])
  t.equal(scene.lock.activity, undefined)
  scene.os.advance(50_000)
  scene.look()
  t.equal(scene.os.processes.length, 2)
  scene.os.advance(10_000)
  scene.look()
  t.equal(scene.os.processes.length, 3)
  scene.os.advance(61_000)
  t.match(
    scene.log.findLast(({ code }) => code === 'BATON_ERR_NOT_REPLACED'),
    { msg: /did not register with the broker within/, pauseMs: 2 * MINUTE },
  )
  t.ok(one.running)
})

void t.test('an operation of an operator comes first', async (t) => {
  const scene = await Scene.begin(t)
  const [one] = scene.os.processes as [VirtualProcess]
  for (let looks = 0; looks < 5; looks++) scene.look()
  scene.memory.set(one.pid, 101)
  scene.look()
  const trial = scene.os.last
  t.equal(scene.lock.activity, 'replacement')
  const command = { service: 'web', target: { instances: 2 }, by: 'uid 0', progress: () => {} }
  const answer = scale(command, scene.parts)
  t.equal(scene.lock.activity, 'scale')
  t.same(trial.signals, ['SIGTERM'], 'the trial has ended')
  trial.exit()
  scene.takeOver()
  t.match(await answer, { success: true, result: { before: 1, instances: 2 } })
  t.same(scene.counted, [])
  scene.look()
  t.equal(scene.lock.activity, 'replacement', 'it is tried again')
})

void t.test('at an age, and at the times of a cron expression', async (t) => {
  const aged = await Scene.begin(t, { restartEvery: '1h' })
  aged.os.advance(3_590_000)
  aged.look()
  t.equal(aged.os.processes.length, 1)
  aged.os.advance(10_000)
  aged.look()
  t.equal(aged.os.processes.length, 2)
  const former = aged.os.processes[0] as VirtualProcess
  aged.takeOver()
  aged.leave(former)
  aged.look()
  t.equal(aged.os.processes.length, 2, 'the age of the successor counts')
  t.same(aged.counted, ['web schedule success'])

  // The virtual clock begins in the 14th minute of an hour.
  const timed = await Scene.begin(t, { restartEvery: '*/10 * * * *' })
  const minute = new Date(timed.os.date()).getMinutes()
  const left = (10 - (minute % 10)) * MINUTE - (timed.os.date() % MINUTE)
  timed.os.advance(left - 2000)
  timed.look()
  t.equal(timed.os.processes.length, 1)
  timed.os.advance(1000)
  timed.look()
  t.equal(timed.os.processes.length, 2)
  t.match(timed.changes[0], {
    reason: 'schedule',
    text: 'web.1 is being replaced: restartEvery is */10 * * * *',
  })
})

void t.test('the oldest first, so that each has its turn', async (t) => {
  const scene = await Scene.begin(t, { instances: 2, restartEvery: '* * * * * *' })
  const [one, two] = scene.os.processes as [VirtualProcess, VirtualProcess]
  scene.os.advance(2000)
  for (const former of [one, two]) {
    scene.look()
    scene.takeOver()
    scene.leave(former)
    scene.os.advance(2000)
  }
  t.notOk(one.running)
  t.notOk(two.running)
  t.match(
    scene.changes.filter(({ text }) => text.endsWith('was replaced')).map(({ text }) => text),
    ['web.1 was replaced', 'web.2 was replaced'],
  )
})
