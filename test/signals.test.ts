import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from './support/backend.ts'
import { batonCommand, type Broker, startBroker } from './support/broker.ts'
import { eventually } from './support/eventually.ts'
import { isInspected } from './support/inspector.ts'
import { LIMIT } from './support/limits.ts'
import { logs, masterStatus, onlyWorker } from './support/operator.ts'
import { Program, temporaryFolder } from './support/process.ts'
import { reached, sabotaged } from './support/sabotage.ts'
import { PATIENT } from './support/service.ts'
import { signal, signalGroup } from './support/signal.ts'
import { servedBy, visit } from './support/visit.ts'

// Signals that other servers use as commands had their default action here: most of them ended the master, and with it the
// listening sockets; SIGUSR1 opened Node's inspector.

/** All signals except SIGKILL, those that stop a process, and faults. */
const HARMLESS = [
  'SIGUSR1',
  'SIGUSR2',
  'SIGALRM',
  'SIGIO',
  'SIGPIPE',
  'SIGPROF',
  'SIGPWR',
  'SIGSTKFLT',
  'SIGTTIN',
  'SIGTTOU',
  'SIGURG',
  'SIGVTALRM',
  'SIGWINCH',
  'SIGXCPU',
  'SIGXFSZ',
] as const

/** A round trip through both event loops, the master's and the worker's: everything sent before has been delivered. */
async function delivered(t: Test, broker: Broker): Promise<void> {
  await masterStatus(t, broker)
  await broker.status()
}

/** The log lines that make up a status, by `msg`. */
function statusLines(broker: Broker): Record<string, Record<string, unknown>[]> {
  const found: Record<string, Record<string, unknown>[]> = {}
  for (const line of broker.program.messages()) {
    const what = /^status: (.+)$/.exec(String(line['msg']))?.[1]
    if (what !== undefined) (found[what] ??= []).push(line)
  }
  return found
}

void t.test('signals affect no client', { timeout: LIMIT }, async (t) => {
  const broker = await startBroker(t, { config: { drainDeadline: '10m', services: { web: PATIENT } } })
  const { pid } = broker.program
  const backend = await startBackend(t, broker)
  const waiting = await visit(t, broker, '/wait')
  await broker.until(({ services }) => services[0]?.outcomes.handed_off === 1, 'it is handed off')

  const same = async (t: Test) => {
    await delivered(t, broker)
    t.ok(broker.program.running)
    t.equal(await onlyWorker(t, broker), broker.pid, 'the same worker')
    t.equal(await servedBy(t, broker), backend.pid)
  }
  await t.test('SIGUSR2 writes the status to the log', async (t) => {
    broker.program.kill('SIGUSR2')
    await logs(broker, 'status: backend')
    await delivered(t, broker)
    t.match(statusLines(broker), {
      master: [{ pid, reloads: 0, busy: null, reloadsWaiting: 0 }],
      worker: [{ pid, workerPid: broker.pid, role: 'serving' }],
      serving: [{ pid: broker.pid, state: 'running' }],
      listener: [{ listener: 'web', address: broker.address(), accepting: true, accepted: 1 }],
      service: [{ service: 'web', held: 0, inFlight: 0, ready: 1, outcomes: { handed_off: 1 } }],
      backend: [{ service: 'web', slot: 'web-1', state: 'ready', peerPid: backend.pid, load: 1 }],
    })
  })
  await t.test('to the master', async (t) => {
    for (const name of HARMLESS) signal(pid, name)
    await logs(broker, 'status: master', 2)
    await same(t)
    t.notOk(isInspected(pid))
  })
  await t.test('to the worker', async (t) => {
    for (const name of [...HARMLESS, 'SIGHUP', 'SIGINT', 'SIGTERM', 'SIGQUIT'] as const)
      signal(broker.pid, name)
    await same(t)
    t.notOk(isInspected(broker.pid))
  })
  await t.test('to the process group', async (t) => {
    for (const name of HARMLESS) signalGroup(pid, name)
    await logs(broker, 'status: master', 3)
    await same(t)
  })
  await t.test('Ctrl-Z stops only the master', async (t) => {
    // The kernel does not deliver SIGTSTP to an orphaned process group (one without a shell above it), such as this one.
    const catches = (process: number) => {
      const mask = /^SigCgt:\s+(\w+)/m.exec(readFileSync(`/proc/${process}/status`, 'utf8'))?.[1]
      return ((BigInt(`0x${mask}`) >> BigInt(constants.signals.SIGTSTP - 1)) & 1n) === 1n
    }
    t.ok(catches(broker.pid))
    t.notOk(catches(pid))
    signal(pid, 'SIGSTOP')
    t.equal(await servedBy(t, broker), backend.pid)
    signal(pid, 'SIGCONT')
    await same(t)
  })
  await t.test('without a name', async (t) => {
    // The first real-time signal that the C library leaves to programs; TypeScript does not accept numbers as signals.
    const realTime = (constants.signals.SIGSYS + 3) as unknown as NodeJS.Signals
    for (const each of [pid, broker.pid]) signal(each, realTime)
    await same(t)
  })
  await t.test('SIGQUIT drains, as Ctrl-\\ in a terminal sends it', async (t) => {
    const held = await visit(t, broker)
    signalGroup(pid, 'SIGQUIT')
    await broker.program.message('draining')
    t.match(await held.answer(), { status: 200 }, 'accepted before')
    backend.say('answer')
    t.match(await waiting.answer(), { status: 200 })
    t.same(await broker.program.exited, { code: 0, signal: null })
    await eventually(() => !broker.program.running, 'it has ended')
  })
})

void t.test(
  'Ctrl-C while the worker starts stops the broker, with exit code 0',
  { timeout: LIMIT },
  async (t) => {
    // The worker ignores signals, but only once its first line runs: before that, "the worker process did not start: without any output".
    const folder = temporaryFolder(t)
    const file = join(folder, 'baton.json')
    const listeners = [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }]
    const admin = { listen: '127.0.0.1:0' }
    writeFileSync(file, JSON.stringify({ runtimeDir: 'run', admin, listeners, services: { web: {} } }))
    const faults = temporaryFolder(t)
    // It is there, and its first line waits.
    writeFileSync(join(faults, 'slow-worker'), '')
    const program = new Program(t, process.execPath, [batonCommand, 'start', '--config', file], {
      group: true,
      env: sabotaged(faults),
    })
    const worker = await reached(faults, 'slow-worker')
    signalGroup(program.pid, 'SIGINT')
    // The master may have begun another one when it comes to its own signal.
    rmSync(join(faults, 'slow-worker'))
    t.same(await program.exited, { code: 0, signal: null })
    const messages = program.messages()
    t.match(
      messages.find(({ workerPid }) => workerPid === worker),
      { msg: 'worker was ended by a signal while it started', signal: 'SIGINT' },
    )
    t.match(messages.at(-1), { msg: 'stopped' })
    t.notOk(
      messages.some(({ level }) => Number(level) > 40),
      'no error',
    )
  },
)
