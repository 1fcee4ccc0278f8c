import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as pause } from 'node:timers/promises'
import { Poller } from '@baton/native-sendmsg'
import t from 'tap'
import { restartAfter, WORKER_RESTARTS } from '../src/supervise/backoff.ts'
import { Child, type ProcessExit, type StartOptions } from '../src/supervise/child.ts'
import { eventually } from '../../../test/support/eventually.ts'
import { LIMIT } from '../../../test/support/limits.ts'
import { exists } from '../../../test/support/signal.ts'

const OPTIONS: StartOptions = { env: process.env, stdout: 'read', descriptors: [], leader: true }

/** Runs a command to its end. */
function run(command: readonly string[], options: Partial<StartOptions> = {}) {
  const output: string[] = []
  let child: Child | undefined
  const exit = new Promise<ProcessExit>((resolve) => {
    child = Child.start(
      command,
      { ...OPTIONS, ...options },
      {
        output: (stream, chunk) => void output.push(`${stream}: ${chunk.toString()}`),
        exited: resolve,
      },
    )
  })
  return { child: child as unknown as Child, exit, output }
}

void t.test('a child reports its exit after its last output', { timeout: LIMIT }, async (t) => {
  const { child, exit, output } = run(['sh', '-c', 'echo one; echo two >&2; exit 3'])
  t.ok(child.running)
  t.same(await exit, { code: 3, signal: null })
  t.same(output.toSorted(), ['stderr: two\n', 'stdout: one\n'])
  t.notOk(child.running)
  t.equal(child.numbers, undefined)
})

// Its last output was lost: after a stop of this process, the time for it was over before what lay in the socket had been read.
void t.test('a stop after the exit of a child loses no output', { timeout: LIMIT }, async (t) => {
  const [size, count] = [20_000, 3]
  let length = 0
  let exited: ProcessExit | undefined
  const child = Child.start(['dd', 'if=/dev/zero', `bs=${size}`, `count=${count}`, 'status=none'], OPTIONS, {
    output: (_, chunk) => {
      length += chunk.length
      // More than the time for output in one turn of the event loop, so that reading pauses.
      block(15)
    },
    exited: (exit) => (exited = exit),
  })
  await eventually(() => !child.running, 'it has exited')
  block(700)
  await eventually(() => exited !== undefined, 'its exit is reported')
  t.equal(length, size * count)
})

/** Time in which this process handles no event. */
function block(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end;);
}

void t.test('a command that does not exist is reported as an exit', { timeout: LIMIT }, async (t) => {
  const { child, exit } = run(['./nothing'])
  t.equal(child.pid, undefined)
  t.match(await exit, { code: null, signal: null, errno: 'ENOENT' })
})

void t.test('SIGKILL ends the whole group of a leader', { timeout: LIMIT }, async (t) => {
  // SIGTERM, which the group gets after the exit, is ignored.
  const { child, exit, output } = run(['sh', '-c', 'trap "" TERM; sleep 1000 & echo $!; wait'])
  await eventually(() => output.length > 0, 'its output')
  const sleep = Number(output[0]?.replace('stdout: ', ''))
  child.signal('SIGKILL')
  t.same(await exit, { code: null, signal: 'SIGKILL' })
  await eventually(() => !exists(sleep), 'the end of its group')
})

/** A child of this process that Node reaps, and what `Child` reports of it. */
function adopted(pid: number, poller: Poller) {
  const exits: ProcessExit[] = []
  const numbers = { pid, stdout: null, stderr: null, exit: null }
  const events = { output: () => undefined, exited: (exit: ProcessExit) => void exits.push(exit) }
  return { child: Child.adopt(numbers, { poller, leader: false }, events), exits }
}

// Out of descriptors during a reload: a managed backend was reported as gone and started a second time, and a worker ended the master.
void t.test('a child without a pidfd is adopted anyway', { timeout: LIMIT }, async (t) => {
  const process = spawn('sleep', ['1000'])
  await once(process, 'spawn')
  const add = () => {
    throw new Error('ENOSPC')
  }
  const poller = { add } as unknown as Poller
  const { child, exits } = adopted(process.pid as number, poller)
  t.teardown(() => child.close())
  await pause(250)
  t.same(exits, [], 'it is alive')
  child.signal('SIGTERM')
  const [, signal] = (await once(process, 'exit')) as [null, string]
  t.equal(signal, 'SIGTERM')
  await eventually(() => exits.length > 0, 'its exit')
  t.match(exits, [{ code: null, signal: null, error: /ECHILD/ }], 'reported once; Node reaped it')
})

void t.test('a child that was reaped before it is adopted is reported', { timeout: LIMIT }, async (t) => {
  const process = spawn('true')
  await once(process, 'exit')
  const poller = new Poller()
  t.teardown(() => poller.close())
  const { child, exits } = adopted(process.pid as number, poller)
  t.teardown(() => child.close())
  await eventually(() => exits.length > 0, 'its exit')
  t.match(exits, [{ error: /ECHILD/ }])
})

void t.test('a worker is replaced at once, then after delays that double up to 5 s', async (t) => {
  let history = WORKER_RESTARTS.first
  const delays: number[] = []
  for (let exits = 0; exits < 9; exits++) {
    const restart = restartAfter(history, { now: exits, lived: 0 }, WORKER_RESTARTS)
    history = restart.history
    delays.push(restart.delay)
  }
  t.same(delays, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000], 'no crash loop')
  t.equal(restartAfter(history, { now: 10, lived: 10_000 }, WORKER_RESTARTS).delay, 0)
})
