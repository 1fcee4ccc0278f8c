import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { type Broker, startBroker } from '../support/broker.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { FalseBackend, hello } from '../support/false-backend.ts'
import { starts } from '../support/limits.ts'
import type { Program } from '../support/process.ts'
import { cannotTrace, RefusedCalls } from '../support/refused-calls.ts'

// A system call of one process is refused for a few seconds, again and again, while clients come. No process ends or spins, the log is not filled,
// and once the call is answered again, each client is served.

type Where = 'master' | 'worker' | 'app'

const CASES: readonly (readonly [where: Where, call: string, ...errors: string[]])[] = [
  ['worker', 'sendmmsg', 'ENOBUFS', 'ETOOMANYREFS', 'ENOMEM'],
  ['worker', 'sendmsg', 'ENOBUFS', 'ENOMEM'],
  ['worker', 'recvmsg', 'ENOMEM', 'ENOBUFS'],
  ['worker', 'connect', 'EACCES', 'ECONNREFUSED', 'EAGAIN', 'ENOENT'],
  ['worker', 'socket', 'EMFILE', 'ENFILE', 'EACCES'],
  ['worker', 'socketpair', 'EMFILE', 'EACCES'],
  ['worker', 'openat', 'EMFILE', 'EACCES', 'EIO'],
  ['worker', 'getdents64', 'EIO'],
  ['worker', 'fstat', 'EACCES'],
  ['worker', 'setsockopt', 'EPERM'],
  ['worker', 'io_uring_enter', 'EAGAIN', 'ENOMEM'],
  ['master', 'sendmsg', 'ENOMEM'],
  ['master', 'recvmsg', 'ENOMEM'],
  ['master', 'statx', 'EACCES', 'EIO'],
  ['app', 'recvmmsg', 'ENOMEM'],
  ['app', 'statx', 'EIO'],
  ['app', 'poll', 'ENOMEM'],
]

const CLIENTS = 10
/** Seconds by the worker's own clock, its heartbeats. */
const BEATS = 3
/** A process that polls does so fifty times a second, and for each client a few times. One that spins does it thousands of times. */
const MAX_REFUSED = 3000
const MAX_LINES = 60

class Scene {
  readonly broker: Broker
  readonly #apps: readonly Program[]
  readonly #clock: FalseBackend

  private constructor(broker: Broker, apps: readonly Program[], clock: FalseBackend) {
    this.broker = broker
    this.#apps = apps
    this.#clock = clock
  }

  static async start(t: Test): Promise<Scene> {
    const listener = (name: string) => ({ name, listen: '127.0.0.1:0', service: name })
    const services = {
      // Refused handoffs must not pause the only backend for longer than the refusal.
      web: {
        holdTimeout: '10m',
        parkAfter: '100ms',
        failureLimit: { pause: '500ms' },
        healthCheck: { path: '/', interval: '500ms' },
      },
      relayed: { holdTimeout: '10m', handoff: 'off', failureLimit: { pause: '500ms' } },
      clock: {},
    }
    const listeners = ['web', 'relayed'].map(listener)
    const broker = await startBroker(t, { config: { listeners, services } })
    const apps = [
      await startBackend(t, broker),
      await startBackend(t, broker, undefined, { service: 'relayed' }),
    ]
    const clock = await FalseBackend.register(t, broker.control, hello('clock'))
    return new Scene(broker, apps, clock)
  }

  pid(where: Where): number {
    if (where === 'worker') return this.broker.pid
    return where === 'master' ? this.broker.program.pid : (this.#apps[0] as Program).pid
  }

  /** Of all processes, so far. */
  get lines(): number {
    return [this.broker.program, ...this.#apps].reduce((sum, { lines }) => sum + lines.length, 0)
  }

  get running(): boolean {
    return [this.broker.program, ...this.#apps].every(({ running }) => running)
  }

  async beats(count: number): Promise<void> {
    const beats = () => this.#clock.wire.all('heartbeat').length
    const begin = beats()
    await eventually(() => beats() >= begin + count, `${count} heartbeats of the worker`)
  }

  /** Clients of both services that have sent a request. */
  async clients(t: Test): Promise<Client[]> {
    const ports = ['web', 'relayed'].map((name) => this.broker.port(name))
    const opened = Array.from({ length: CLIENTS }, () =>
      ports.map((port) => Client.open(t, { host: '127.0.0.1', port })),
    )
    const clients = await Promise.all(opened.flat())
    for (const client of clients) client.request('/')
    return clients
  }
}

void t.test('refused system calls', { timeout: starts(200), skip: cannotTrace }, async (t) => {
  const scene = await Scene.start(t)
  const { broker } = scene
  for (const [where, call, ...errors] of CASES)
    for (const error of errors)
      await t.test(`${where}: ${call} ${error}`, { timeout: starts(30) }, async (t) => {
        const before = scene.lines
        const calls = await RefusedCalls.begin(t, scene.pid(where), call, error)
        const clients = await scene.clients(t)
        await broker.metrics()
        await scene.beats(BEATS)
        await calls.refused()
        const { count } = calls
        const lines = scene.lines - before
        await calls.end()
        for (const client of clients) {
          t.equal((await client.answer()).status, 200)
          client.socket.destroy()
        }
        t.comment(`${count} calls refused, ${lines} lines`)
        t.ok(count < MAX_REFUSED, `${count} calls refused`)
        t.ok(lines < MAX_LINES, `${lines} lines`)
        t.ok(scene.running, 'no process has ended')
        const { pid, master } = (await broker.status()).broker
        t.same([pid, master], [broker.pid, broker.program.pid], 'the worker is the same, and has its master')
      })
})
