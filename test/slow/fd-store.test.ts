import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startBackend } from '../support/backend.ts'
import { batonCommand, Broker } from '../support/broker.ts'
import type { Client } from '../support/client.ts'
import { batonHere } from '../support/command.ts'
import { eventually } from '../support/eventually.ts'
import { LIMIT } from '../support/limits.ts'
import { logged, onlyWorker, reload, samples } from '../support/operator.ts'
import { Program, temporaryFolder } from '../support/process.ts'
import { lacksSystemd, ServiceManager } from '../support/service-manager.ts'
import { signal } from '../support/signal.ts'
import { visitors } from '../support/visit.ts'

// A broker as a service of a real systemd, which keeps its sockets and what waits while it restarts.

const UNIT = 'baton.service'

/** The broker as a unit. Each start is a process of its own, with one log. */
class Service {
  readonly manager: ServiceManager
  readonly folder: string
  readonly configFile: string
  readonly #log: Program
  readonly #config: Record<string, unknown>
  #starts = 0

  static async start(t: Test, settings: readonly string[]): Promise<Service> {
    const folder = temporaryFolder(t)
    mkdirSync(join(folder, 'manager'), { mode: 0o700 })
    const service = new Service(t, folder, await ServiceManager.start(t, join(folder, 'manager')), settings)
    return service
  }

  private constructor(t: Test, folder: string, manager: ServiceManager, settings: readonly string[]) {
    this.folder = folder
    this.manager = manager
    this.configFile = join(folder, 'baton.json')
    this.#config = {
      runtimeDir: join(folder, 'run'),
      admin: { listen: '127.0.0.1:0' },
      // Of an operator's stop, in which a held client waits for a backend.
      drainDeadline: '1s',
      services: { web: { holdTimeout: '10m' } },
    }
    this.listen({ name: 'web', listen: '127.0.0.1:0' }, { name: 'path', listen: `unix:${folder}/path.sock` })
    const log = join(folder, 'log')
    writeFileSync(log, '')
    this.#log = new Program(t, 'tail', ['-n', '+1', '-f', log])
    const lines = [
      '[Unit]',
      'DefaultDependencies=no',
      'StartLimitIntervalSec=0',
      '[Service]',
      'Type=notify',
      `ExecStart=${process.execPath} ${batonCommand} start --config ${this.configFile}`,
      `ExecReload=${process.execPath} ${batonCommand} reload --config ${this.configFile}`,
      'Restart=on-failure',
      'RestartSec=0',
      'KillMode=mixed',
      `StandardOutput=append:${log}`,
      `StandardError=append:${log}`,
      ...settings,
    ]
    manager.write(UNIT, `${lines.join('\n')}\n`)
    manager.ctl('daemon-reload')
  }

  listen(...listeners: readonly Record<string, unknown>[]): void {
    const all = listeners.map((listener) => ({ protocol: 'http', service: 'web', ...listener }))
    writeFileSync(this.configFile, JSON.stringify({ ...this.#config, listeners: all }))
  }

  /** The descriptors that systemd has. */
  get stored(): number {
    return Number(this.manager.property(UNIT, 'NFileDescriptorStore'))
  }

  get mainPid(): number {
    return Number(this.manager.property(UNIT, 'MainPID'))
  }

  messages(msg: string): Record<string, unknown>[] {
    return this.#log.messages().filter((message) => message['msg'] === msg)
  }

  /** The broker that `begin` starts. */
  async next(begin: () => void): Promise<Broker> {
    begin()
    this.#starts += 1
    await eventually(() => this.messages('accepting connections').length >= this.#starts, 'it accepts')
    const ready = this.messages('accepting connections')[this.#starts - 1] ?? {}
    return new Broker(this.#log, this.folder, this.configFile, ready)
  }
}

/** Accepted and handed back, less outcomes and what waits: 0 at rest. */
async function unaccounted(broker: Broker): Promise<number> {
  let sum = 0
  for (const [series, value] of await samples(broker)) {
    const [name = ''] = series.split('{')
    if (name === 'baton_connections_accepted_total') sum += value
    if (name === 'baton_connections_handed_back_total' && series.includes('"taken"')) sum += value
    if (/^baton_connections_(?:total|held|parked)$|^baton_handoffs_in_flight$/.test(name)) sum -= value
  }
  return sum
}

/** Each has one answer, from `backend`. */
async function answeredBy(t: Test, clients: readonly Client[], backend: Program): Promise<void> {
  const answers = await Promise.all(clients.map((client) => client.answer()))
  t.same([...new Set(answers.map(({ headers }) => headers['x-pid']))], [String(backend.pid)])
  t.same(
    clients.map(({ open }) => open),
    clients.map(() => true),
  )
}

async function end(broker: Broker, backend: Program): Promise<void> {
  backend.kill('SIGTERM')
  await backend.exited
  await broker.backends(0)
}

void t.test('systemd keeps sockets and what waits', { timeout: 3 * LIMIT, skip: lacksSystemd }, async (t) => {
  const service = await Service.start(t, ['FileDescriptorStoreMax=256'])
  const { manager } = service
  let broker = await service.next(() => manager.ctl('start', UNIT))
  await eventually(() => service.stored === 3, 'two listeners and admin are stored')
  const { admin } = broker
  const port = broker.port()
  const sameAddresses = () => {
    t.equal(broker.port(), port)
    t.equal(broker.admin, admin)
    t.equal(broker.address('path'), `unix:${service.folder}/path.sock`)
  }
  /** Three listening sockets, and two memory files from the first connection on. */
  const whenStored = (count: number) =>
    eventually(
      () => service.stored === 3 + 2 + count,
      () => `${count} connections are stored, with 5 others, not ${service.stored}`,
    )

  await t.test('held clients over a restart', async (t) => {
    const clients = await visitors(t, broker, 20)
    await broker.until(({ services }) => services[0]?.held === 20, 'they are held')
    broker = await service.next(() => manager.ctl('restart', UNIT))
    sameAddresses()
    await broker.until(({ services }) => services[0]?.held === 20, 'they are held again')
    t.equal(await unaccounted(broker), 0)
    const backend = await startBackend(t, broker)
    await answeredBy(t, clients, backend)
    await whenStored(0)
    await end(broker, backend)
    await broker.until(({ services }) => services[0]?.parked === 20, 'they are parked')

    broker = await service.next(() => manager.ctl('restart', UNIT))
    await broker.until(({ services }) => services[0]?.parked === 20, 'parked connections over another one')
    t.equal(await unaccounted(broker), 0)
    const next = await startBackend(t, broker)
    for (const client of clients) client.request('/again')
    await answeredBy(t, clients, next)
    t.equal(await unaccounted(broker), 0)
    for (const client of clients) client.socket.destroy()
    await end(broker, next)
  })

  await t.test('SIGKILL of master and worker', async (t) => {
    const clients = await visitors(t, broker, 10)
    await whenStored(10)
    // One has an answer before: its mark is cleared, and the next start must not offer it.
    const worker = await onlyWorker(t, broker)
    broker = await service.next(() => {
      signal(service.mainPid, 'SIGKILL')
      signal(worker, 'SIGKILL')
    })
    sameAddresses()
    await broker.until(({ services }) => services[0]?.held === 10, 'they are held again')
    await whenStored(10)
    const backend = await startBackend(t, broker)
    await answeredBy(t, clients, backend)
    t.equal(await unaccounted(broker), 0)
    await whenStored(0)

    // Connections that a backend has are not offered again, whatever the store has had.
    for (const client of clients) client.request('/wait')
    await broker.until(
      ({ services }) => services[0]?.backends[0]?.adopted === 10 && services[0].held === 0,
      'the backend has them',
    )
    const now = await onlyWorker(t, broker)
    broker = await service.next(() => {
      signal(service.mainPid, 'SIGKILL')
      signal(now, 'SIGKILL')
    })
    await broker.backends(1)
    const status = await broker.status()
    t.match(status.services[0], { held: 0, parked: 0 })
    backend.say('answer')
    for (const client of clients) client.socket.destroy()
    await end(broker, backend)
  })

  await t.test('SIGKILL of the master alone: systemd ends the worker', async (t) => {
    const clients = await visitors(t, broker, 5)
    await whenStored(5)
    broker = await service.next(() => signal(service.mainPid, 'SIGKILL'))
    await broker.until(({ services }) => services[0]?.held === 5, 'they are held again')
    const backend = await startBackend(t, broker)
    await answeredBy(t, clients, backend)
    for (const client of clients) client.socket.destroy()
    await end(broker, backend)
  })

  await t.test('SIGKILL of the worker: its connections are stored once', async (t) => {
    const clients = await visitors(t, broker, 5)
    await whenStored(5)
    const accepted = logged(broker, 'accepting connections')
    signal(await onlyWorker(t, broker), 'SIGKILL')
    broker = await service.next(() => {})
    t.ok(logged(broker, 'accepting connections') > accepted)
    await broker.until(({ services }) => services[0]?.held === 5, 'the next worker has them')
    await whenStored(5)
    const backend = await startBackend(t, broker)
    await answeredBy(t, clients, backend)
    for (const client of clients) client.socket.destroy()
    await end(broker, backend)
  })

  await t.test('after a reload, and with a listener that is no longer configured', async (t) => {
    const clients = await visitors(t, broker, 5)
    await whenStored(5)
    service.listen({ name: 'web', listen: '127.0.0.1:0' }, { name: 'more', listen: '127.0.0.1:0' })
    broker = await service.next(() => manager.ctl('reload', UNIT))
    await whenStored(5)
    t.notOk(existsSync(join(service.folder, 'path.sock')))
    service.listen({ name: 'web', listen: '127.0.0.1:0' })
    broker = await service.next(() => manager.ctl('restart', UNIT))
    t.equal(broker.port(), port)
    const closed = service.messages('closed a socket of the last start that is no longer configured')
    t.match(closed, [{ name: 'more' }])
    await eventually(() => service.stored === 2 + 5 + 2, 'and it is no longer stored')
    const backend = await startBackend(t, broker)
    await answeredBy(t, clients, backend)
    for (const client of clients) client.socket.destroy()
    await end(broker, backend)
  })

  await t.test('an operator’s stop leaves nothing', async (t) => {
    const [client] = await visitors(t, broker, 1)
    await eventually(() => service.stored === 2 + 3, 'it is stored')
    await batonHere('stop', '--config', service.configFile)
    t.equal((await client?.answer())?.status, 503)
    await eventually(() => manager.property(UNIT, 'ActiveState') === 'inactive', 'it has stopped')
    t.equal(service.stored, 0)
  })
  t.notOk(readFileSync(join(service.folder, 'log'), 'utf8').includes('"level":60'))
})

void t.test(
  'a store without enough room ends and stalls nothing',
  { timeout: LIMIT, skip: lacksSystemd },
  async (t) => {
    const service = await Service.start(t, ['FileDescriptorStoreMax=8'])
    const { manager } = service
    const broker = await service.next(() => manager.ctl('start', UNIT))
    const clients = await visitors(t, broker, 20)
    await eventually(() => service.stored === 8, 'it is full')
    t.match(await reload(t, broker), { success: true })
    const [first, ...others] = clients
    first?.socket.destroy()
    const next = await service.next(() => {})
    const backend = await startBackend(t, next)
    await answeredBy(t, others, backend)
    await eventually(() => service.stored <= 3 + 2, 'nothing waits')
    for (const client of others) client.socket.destroy()
    backend.kill('SIGTERM')
    manager.ctl('stop', UNIT)
  },
)
