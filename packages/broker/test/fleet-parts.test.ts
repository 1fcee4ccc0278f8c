import assert from 'node:assert/strict'
import { fstatSync, mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { send, socketpair } from '@baton/native-sendmsg'
import * as fc from 'fast-check'
import { pino } from 'pino'
import t from 'tap'
import { parseConfig } from '../src/config/config.ts'
import { define, environmentOf, sameDefinition } from '../src/master/fleet/definition.ts'
import type { BackendReport } from '../src/master/fleet/backend-report.ts'
import { Fleet, type FleetOptions } from '../src/master/fleet/fleet.ts'
import { NEW_INSTANCE, step } from '../src/master/fleet/instance-state.ts'
import { LineSplitter, MAX_LINE_BYTES } from '../src/supervise/lines.ts'
import { OutputPipe } from '../src/supervise/output-pipe.ts'
import { live, type ProcessLife } from '../src/master/fleet/process-life.ts'
import { NO_HISTORY, restartAfter } from '../src/supervise/backoff.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { VirtualOs, type VirtualProcess } from './virtual-fleet.ts'

function service(settings: Record<string, unknown> = {}) {
  const config = parseConfig({
    listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
    services: { web: { command: ['node', 'app.js'], ...settings } },
  })
  return config.services.get('web')!
}

void t.test('restarts: delays double from 100 ms to 10 s while lives are short', async (t) => {
  let history = NO_HISTORY
  const delays: number[] = []
  for (let now = 0, exits = 0; exits < 12; exits++) {
    // With lives of 9 s there are never eight within a minute.
    now += 9_000
    const restart = restartAfter(history, { now, lived: 9_000 })
    history = restart.history
    delays.push(restart.delay)
    now += restart.delay
  }
  t.same(delays.slice(0, 9), [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000])
  t.notOk(history.crashed)
})

void t.test('restarts: a life of 10 s resets the delay', async (t) => {
  const worn = { delay: 6400, crashes: [1, 2, 3], crashed: false }
  const { history, delay } = restartAfter(worn, { now: 20_000, lived: 10_000 })
  t.equal(delay, 100)
  t.same(history, { delay: 200, crashes: [], crashed: false })
})

void t.test(
  'restarts: eight short lives within a minute are a crash loop, tried once a minute',
  async (t) => {
    let history = NO_HISTORY
    let now = 0
    for (let exits = 1; exits <= 7; exits++) {
      const restart = restartAfter(history, { now, lived: 0 })
      history = restart.history
      t.notOk(history.crashed, `exit ${exits}`)
      now += restart.delay
    }
    const eighth = restartAfter(history, { now, lived: 0 })
    t.ok(eighth.history.crashed)
    t.equal(eighth.delay, 60_000)
    const ninth = restartAfter(eighth.history, { now: now + 60_000, lived: 9_999 })
    t.ok(ninth.history.crashed, 'a short life does not end it')
    t.equal(ninth.delay, 60_000)
    t.notOk(restartAfter(ninth.history, { now: now + 200_000, lived: 10_000 }).history.crashed)
  },
)

void t.test('lines: the lines are the same, wherever the bytes are cut', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: 'grapheme' }).filter((line) => !/[\r\n]/.test(line))),
      fc.array(fc.nat(40)),
      (lines, cuts) => {
        const bytes = Buffer.from(lines.map((line) => `${line}\n`).join(''))
        const splitter = new LineSplitter()
        const found: string[] = []
        let at = 0
        for (const cut of cuts) {
          found.push(...splitter.push(bytes.subarray(at, at + cut)))
          at += cut
        }
        found.push(...splitter.push(bytes.subarray(at)), ...splitter.end())
        assert.deepEqual(found, lines)
      },
    ),
    { numRuns: 200 },
  )
})

void t.test('lines: a partial line continues in another splitter', async (t) => {
  const first = new LineSplitter()
  t.same(first.push(Buffer.from('one\ntw')), ['one'])
  const second = new LineSplitter(first.partial)
  t.same(second.push(Buffer.from('o\r\nthree')), ['two'])
  t.same(second.end(), ['three'])
  t.same(second.end(), [])
})

void t.test('lines: a long one is cut, between characters', async (t) => {
  const line = 'é'.repeat(MAX_LINE_BYTES)
  const splitter = new LineSplitter()
  const pieces = [...splitter.push(Buffer.from(`x${line}\nshort\n`))]
  t.equal(pieces.pop(), 'short')
  t.equal(pieces.join(''), `x${line}`)
  t.ok(pieces.every((piece) => Buffer.byteLength(piece) <= MAX_LINE_BYTES))
  for (let chunk = 0; chunk < 100; chunk++) {
    splitter.push(Buffer.alloc(1000, 'y'))
    t.ok(splitter.partial.length <= MAX_LINE_BYTES)
  }
  const bytes = splitter.push(Buffer.alloc(MAX_LINE_BYTES * 2, 0x80))
  t.ok(bytes.length > 0, 'invalid UTF-8 is passed on as well')
})

// A reload in the same turn as the end of a process's output passed on a descriptor number that libuv had closed: it failed with
// EBADF, and if another file had got the number by then, that file would have been passed on.
void t.test('output: a descriptor that is passed on is open', { timeout: LIMIT }, async (t) => {
  const [ours, theirs] = socketpair('stream')
  const fd = ours.release()
  const turns: boolean[] = []
  await new Promise<void>((resolve) => {
    const pipe = new OutputPipe(fd, { data: () => undefined, ended: resolve })
    const look = () => {
      if (pipe.fd === null) return
      turns.push(isOpen(pipe.fd))
      setImmediate(look)
    }
    look()
    theirs.close()
  })
  t.ok(turns.length > 0)
  t.notOk(turns.includes(false), `${turns.length} turns`)
})

// libuv reads up to 32 times before it serves another socket. An app that printed short lines at full speed kept the master
// from everything else: it replaced no worker, answered no operator and did not stop.
void t.test('output: a never-empty pipe leaves time for other work', { timeout: LIMIT }, async (t) => {
  const WORK = 12
  const chunksOf = async (count: number) => {
    const pairs = Array.from({ length: count }, () => socketpair('stream'))
    for (const [, theirs] of pairs) send(theirs.fd, Buffer.alloc(128 * 1024, 'y\n'))
    let chunks = 0
    let most = 0
    let left = count
    let between = 0
    const turn = () => {
      most = Math.max(most, between)
      between = 0
      if (left > 0) setImmediate(turn)
    }
    turn()
    await new Promise<void>((resolve) => {
      const data = () => {
        chunks += 1
        between += 1
        for (const began = performance.now(); performance.now() - began < WORK;);
      }
      const ended = () => {
        left -= 1
        if (left === 0) resolve()
      }
      const pipes = pairs.map(([ours]) => new OutputPipe(ours.release(), { data, ended }))
      t.equal(pipes.length, count)
      for (const [, theirs] of pairs) theirs.close()
    })
    return { chunks, most }
  }
  const one = await chunksOf(1)
  t.ok(one.chunks > 2, 'everything is read')
  t.equal(one.most, 1, 'one piece of work in a turn')
  t.ok((await chunksOf(4)).most <= 4, 'one for each pipe at most')
})

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd)
    return true
  } catch {
    return false
  }
}

void t.test('a definition resolves links at once, and is compared by value', async (t) => {
  const base = realpathSync(mkdtempSync(join(tmpdir(), 'baton-t-')))
  t.teardown(() => rmSync(base, { recursive: true }))
  mkdirSync(join(base, 'one'))
  mkdirSync(join(base, 'two'))
  symlinkSync('one', join(base, 'current'))
  const settings = { cwd: 'current', env: { A: '1', BATON_VERSION: '7' } }
  const first = define(service(settings), base)!
  t.same(first, {
    service: 'web',
    command: ['node', 'app.js'],
    env: { A: '1', BATON_VERSION: '7' },
    cwd: join(base, 'one'),
    folder: join(base, 'current'),
    version: '7',
  })
  const turned = define(service({ ...settings, env: { BATON_VERSION: '7', A: '1' } }), base)!
  t.ok(sameDefinition(first, turned), 'the order of variables is nothing')
  unlinkSync(join(base, 'current'))
  symlinkSync('two', join(base, 'current'))
  t.notOk(sameDefinition(first, define(service(settings), base)!))
  t.equal(define(service(), base)!.version, null)
  t.equal(define(service({ command: null }), base), undefined)
  t.throws(() => define(service({ cwd: 'three' }), base), { code: 'BATON_ERR_BACKEND_FOLDER' })
})

void t.test('a process gets the environment without the master’s own variables', async (t) => {
  const definition = define(service({ env: { PATH: '/app/bin', BATON_SOCKET: 'no' } }), tmpdir())!
  const master = { BATON_MASTER_PID: '7' }
  const inherited = {
    HOME: '/home/web',
    PATH: '/bin',
    BATON_MASTER_STATE: '5',
    BATON_MASTER_PID: '6',
    BATON_MASTER_LIFELINE: '50:1',
    BATON_SECRET: 's',
    BATON_VERSION: '1',
    NOTIFY_SOCKET: '/run/systemd/notify',
    LISTEN_FDS: '1',
    LISTEN_PID: '1',
    LISTEN_FDNAMES: 'web',
    WATCHDOG_USEC: '1',
  }
  t.same(environmentOf(definition, 'ID', { socket: '/run/c.sock', master, env: inherited }), {
    HOME: '/home/web',
    PATH: '/app/bin',
    BATON_SECRET: 's',
    BATON_SOCKET: '/run/c.sock',
    BATON_SERVICE: 'web',
    BATON_BACKEND_ID: 'ID',
    BATON_MASTER_PID: '7',
  })
})

void t.test('the life of a process: drained, SIGTERM, SIGKILL, each in time', async (t) => {
  const running: ProcessLife = { kind: 'running' }
  const retired = live(running, { kind: 'retire', now: 0, deadline: 30_000, listed: true })
  t.same(retired, {
    life: { kind: 'draining', until: 30_000 },
    effects: [{ kind: 'drain', deadline: 30_000 }],
  })
  t.same(live(retired.life, { kind: 'due', now: 29_999 }).effects, [], 'a timer that came early')
  const late = live(retired.life, { kind: 'due', now: 30_000 })
  t.same(late, {
    life: { kind: 'terminating', until: 40_000 },
    effects: [{ kind: 'signal', signal: 'SIGTERM' }],
  })
  t.same(live(late.life, { kind: 'due', now: 40_000 }), {
    life: { kind: 'killed' },
    effects: [{ kind: 'signal', signal: 'SIGKILL' }],
  })
  const drained = live(retired.life, { kind: 'drained', now: 5 })
  t.same(drained.life, { kind: 'terminating', until: 10_005 })
  t.same(live(drained.life, { kind: 'drained', now: 6 }).effects, [], 'no second SIGTERM')
  const hurried = live(drained.life, { kind: 'retire', now: 6, deadline: 100, listed: false })
  t.same(hurried, { life: { kind: 'terminating', until: 106 }, effects: [] })
  t.same(live(hurried.life, { kind: 'exited' }), { life: { kind: 'gone' }, effects: [] })
  t.same(live({ kind: 'gone' }, { kind: 'kill' }).effects, [], 'the pid may belong to another process')
  const unknown = live(running, { kind: 'retire', now: 0, deadline: 300, listed: false })
  t.same(unknown.life, { kind: 'terminating', until: 300 }, 'an unlisted process is not drained')
})

void t.test('the life of a process whose drain can no longer be observed', async (t) => {
  const draining: ProcessLife = { kind: 'draining', until: 30_000 }
  const { life, effects } = live(draining, { kind: 'lost' })
  t.same(effects, [])
  t.same(
    live(life, { kind: 'drained', now: 5 }),
    { life, effects: [] },
    'being unlisted does not mean drained',
  )
  t.same(live(life, { kind: 'due', now: 30_000 }).life, { kind: 'terminating', until: 40_000 })
  const hurried = live(life, { kind: 'retire', now: 5, deadline: 100, listed: false })
  t.same(hurried.life, { kind: 'terminating', until: 105 }, 'no broker can be asked to hurry it')
  const late = live(life, { kind: 'retire', now: 5, deadline: 60_000, listed: false })
  t.same(late.life, { kind: 'terminating', until: 30_000 }, 'and it gets no more time by that')
  const listed = live(life, { kind: 'listed' })
  t.same(listed, { life: draining, effects: [] }, 'it has registered with the next worker, which observes it')
  t.same(live(listed.life, { kind: 'drained', now: 5 }).life, { kind: 'terminating', until: 10_005 })
  for (const other of [{ kind: 'running' }, { kind: 'terminating', until: 1 }] satisfies ProcessLife[])
    for (const kind of ['lost', 'listed'] as const)
      t.same(live(other, { kind }), { life: other, effects: [] })
})

const UNREGISTERED = 'backend process has not registered'

/** A fleet whose service `web` accepts registrations while `serves`, and its log lines about processes that do not register. */
function registrations(os: VirtualOs, saved?: unknown) {
  const warnings: Record<string, unknown>[] = []
  const scene = { warnings, serves: true }
  const write = (line: string): void => {
    const entry = JSON.parse(line) as Record<string, unknown>
    if (entry['msg'] === UNREGISTERED) warnings.push(entry)
  }
  const options: FleetOptions = {
    logger: pino({}, { write }),
    os,
    socket: '/run/control.sock',
    env: {},
    master: {},
    workers: { drain: () => undefined },
    registrable: (name) => name === 'web' && scene.serves,
  }
  const fleet = saved === undefined ? new Fleet(options) : Fleet.restore(saved, options)
  fleet.apply({ ...TWO, base: tmpdir(), drainDeadline: 30_000 })
  return Object.assign(scene, { fleet })
}

const TWO = { services: new Map([['web', service({ instances: 2 })]]) }

const listing = (process: VirtualProcess | undefined): BackendReport => {
  if (process === undefined) throw new Error('there is no such process')
  return { service: 'web', id: process.id, slot: 'web-1', pid: process.pid, state: 'ready' }
}

// Such a process was in no log line: it was `running` in `baton status`, and clients waited until they got a 503.
void t.test('a process that does not register causes one warning', async (t) => {
  const os = new VirtualOs()
  const { fleet, warnings } = registrations(os)
  const [registered, silent] = os.processes
  os.advance(4000)
  fleet.reported([listing(registered)])
  // The worker died, and nothing has registered with the next one yet.
  fleet.reported([])
  os.advance(5999)
  t.same(warnings, [])
  os.advance(1)
  const warning = { level: 40, service: 'web', peerPid: silent?.pid, msg: UNREGISTERED }
  t.match(warnings, [
    { ...warning, instance: 'web.2', backend: silent?.id, hint: /createBackend.*baton run/ },
  ])
  t.match(fleet.statuses(), [{ state: 'running' }, { state: 'running' }])
  os.advance(60_000)
  t.equal(warnings.length, 1, 'once')
  fleet.reported([listing(silent)])
  os.advance(60_000)
  t.equal(warnings.length, 1)

  registered?.exit({ code: 1, signal: null })
  os.advance(100 + 10_000)
  t.match(warnings.slice(1), [{ ...warning, instance: 'web.1', peerPid: os.last.pid }], 'another process')
  fleet.close()
  t.equal(os.timers, 0)
})

void t.test('only running time with a worker counts towards it, also over a re-execution', async (t) => {
  const os = new VirtualOs()
  const scene = registrations(os)
  scene.fleet.reported([listing(os.processes[0])])
  os.advance(3000)
  scene.serves = false
  os.advance(20_000)
  scene.serves = true
  os.advance(3000)
  const { state } = scene.fleet.serialize()
  scene.fleet.close()

  const next = registrations(os, JSON.parse(JSON.stringify(state)))
  os.advance(3000)
  // The process was stopped meanwhile: the worker's report is read after the timer that was due.
  os.stall(60_000)
  t.same([...scene.warnings, ...next.warnings], [])
  os.advance(1000)
  t.match(next.warnings, [{ instance: 'web.2' }])
  const last = registrations(os, JSON.parse(JSON.stringify(next.fleet.serialize().state)))
  next.fleet.close()
  os.advance(60_000)
  t.same(last.warnings, [], 'not again')
  last.fleet.close()
})

void t.test('a process that is ending, or need not register, is not expected to', async (t) => {
  const os = new VirtualOs()
  const { fleet, warnings } = registrations(os)
  os.advance(9000)
  fleet.apply({
    services: new Map([['other', { ...service(), name: 'other' }]]),
    base: tmpdir(),
    drainDeadline: 30_000,
  })
  os.advance(20_000)
  t.same(warnings, [])
  fleet.close()
})

void t.test("a process has its service's time to drain, as of the last reload", async (t) => {
  const os = new VirtualOs()
  const { fleet } = registrations(os)
  const [first, second] = os.processes
  fleet.reported([listing(first), listing(second)])
  const web = (instances: number, drainDeadline: number | null) =>
    fleet.apply({
      services: new Map([['web', service({ instances, drainDeadline })]]),
      base: tmpdir(),
      drainDeadline: 30_000,
    })
  web(2, 600_000)
  web(1, 5000)
  os.advance(4999)
  t.same(second?.signals, [])
  os.advance(1)
  t.same(second?.signals, ['SIGTERM'])
  web(1, 7000)
  void fleet.stop(60_000)
  os.advance(6999)
  t.same(first?.signals, [])
  os.advance(1)
  t.same(first?.signals, ['SIGTERM'], 'at a stop as well')
  fleet.close()
})

void t.test('an instance restarts exited processes, until it is stopped', async (t) => {
  const started = step(NEW_INSTANCE, { kind: 'start', id: 'a' })
  t.same(started.effects, [{ kind: 'spawn', id: 'a' }])
  t.equal(started.state.restarts, 0)
  const other = step(started.state, { kind: 'exited', id: 'x', now: 5, lived: 5 })
  t.same(other, { state: started.state, effects: [] }, 'another process is ignored')
  const waiting = step(started.state, { kind: 'exited', id: 'a', now: 5, lived: 5 })
  t.same(waiting.state.phase, { kind: 'waiting', until: 105 })
  t.same(waiting.effects, [{ kind: 'backoff', delay: 100, crashed: false }])
  const again = step(waiting.state, { kind: 'start', id: 'b' })
  t.equal(again.state.restarts, 1)
  const replaced = step(again.state, { kind: 'replaced', id: 'c' })
  t.same(replaced.effects, [{ kind: 'retire', id: 'b' }])
  t.same(replaced.state.history, NO_HISTORY)
  t.same(step(waiting.state, { kind: 'replaced', id: 'c' }).effects, [], 'nothing ran there')
  const stopped = step(replaced.state, { kind: 'stop' })
  t.same(stopped.effects, [{ kind: 'retire', id: 'c' }])
  t.same(step(stopped.state, { kind: 'start', id: 'd' }).effects, [])
})

// It was drained by the broker's own deadline, 30 s: a service that is no longer configured was restored without the deadline that it had.
void t.test('a service that a reload removes is drained by its own deadline', async (t) => {
  const os = new VirtualOs()
  const drains: [service: string, deadline: number][] = []
  const options: FleetOptions = {
    logger: pino({ level: 'silent' }),
    os,
    socket: '/run/control.sock',
    env: {},
    master: {},
    workers: { drain: (name, _backend, deadline) => void drains.push([name, deadline]) },
  }
  const services = new Map([['web', service({ instances: 1, drainDeadline: 600_000 })]])
  const fleet = new Fleet(options)
  fleet.apply({ services, base: tmpdir(), drainDeadline: 30_000 })
  const listed = listing(os.last)
  const states = [fleet.serialize().state, fleet.estate()]
  fleet.close()
  for (const state of states) {
    const next = Fleet.restore(JSON.parse(JSON.stringify(state)), options)
    next.reported([listed])
    next.apply({ services: new Map(), base: tmpdir(), drainDeadline: 30_000 })
    next.close()
  }
  t.same(drains, [
    ['web', 600_000],
    ['web', 600_000],
  ])
})
