import { join } from 'node:path'
import type { Test } from 'tap'
import { type Broker, startBroker, type Status } from './broker.ts'
import { Client } from './client.ts'
import { Program, root } from './process.ts'

/** For a service whose deadlines must not expire, however slow the machine is. */
export const PATIENT = {
  holdTimeout: '30m',
  ackDeadline: '10m',
  tokenTtl: '20m',
  failureLimit: { failures: 1000 },
}

export interface ServiceDefinition {
  /** Protocol of its listener, which has the service's name. */
  readonly protocol?: 'http' | 'tls' | 'tcp'
  readonly listen?: string
  /** In addition to `PATIENT`. */
  readonly config?: Record<string, unknown>
}

export type ServiceState = Status['services'][number] & {
  readonly accepted: number
  readonly accepting: boolean
  /** I4: always 0. */
  readonly unaccounted: number
}

/** A scene's own part of a shared broker: a service, and a listener of the same name. */
export class Service {
  readonly broker: Broker
  readonly name: string
  readonly #kept: Program[] = []

  constructor(broker: Broker, name: string) {
    this.broker = broker
    this.name = name
  }

  get port(): number {
    return this.broker.port(this.name)
  }

  url(path = '/'): string {
    return this.broker.url(path, this.name)
  }

  stateIn({ services, listeners }: Status): ServiceState {
    const service = services.find(({ name }) => name === this.name)
    const listener = listeners.find(({ name }) => name === this.name)
    if (service === undefined || listener === undefined) throw new Error(`no service ${this.name}`)
    const { accepted, accepting } = listener
    const outcomes = Object.values(service.outcomes).reduce((sum, count) => sum + count, 0)
    return {
      ...service,
      accepted,
      accepting,
      unaccounted:
        accepted + service.handedBack - service.parked - service.held - service.inFlight - outcomes,
    }
  }

  async state(): Promise<ServiceState> {
    return this.stateIn(await this.broker.status())
  }

  async until(holds: (state: ServiceState) => boolean, what: string): Promise<ServiceState> {
    const whole = await this.broker.until((status) => holds(this.stateIn(status)), `${this.name}: ${what}`)
    return this.stateIn(whole)
  }

  /** Resolves once exactly `count` of its backends are ready. */
  async backends(count: number): Promise<ServiceState> {
    return this.stateIn(await this.broker.backends(count, this.name))
  }

  /** Value of this service's series; `labels` are the ones after `service`, in the exposition's order. */
  metric(name: string, labels = ''): Promise<number> {
    const more = labels === '' ? '' : `,${labels}`
    return this.broker.metric(`${name}{service="${this.name}"${more}}`)
  }

  /** A backend process from `test/programs`; resolves once it has registered. */
  async start(t: Test, program = 'http-backend.mjs', env: NodeJS.ProcessEnv = {}): Promise<Program> {
    const backend = new Program(t, process.execPath, [join(root, 'test/programs', program)], {
      env: {
        BATON_SOCKET: this.broker.control,
        BATON_SERVICE: this.name,
        DRAIN_DEADLINE: '10m',
        ...env,
      },
    })
    await backend.message('ready')
    return backend
  }

  /**
   * `count` ready backends, reusing those that an earlier scene has left.
   *
   * @param t of the file: they live on
   */
  async keep(t: Test, count: number, program?: string): Promise<Program[]> {
    const living = this.#kept.filter(({ running }) => running)
    while (living.length < count) living.push(await this.start(t, program))
    this.#kept.splice(0, this.#kept.length, ...living)
    await this.backends(count)
    return living
  }

  open(t: Test): Promise<Client> {
    return Client.open(t, { host: '127.0.0.1', port: this.port })
  }

  openMany(t: Test, count: number): Promise<Client[]> {
    return Promise.all(Array.from({ length: count }, () => this.open(t)))
  }

  /** A client that has sent a request; `answer()` reads the response. */
  async visit(t: Test, path = '/'): Promise<Client> {
    const client = await this.open(t)
    client.request(path)
    return client
  }

  /** The pids (`x-pid`) in the responses to `count` new clients, one at a time. */
  async answeredBy(t: Test, count: number): Promise<Set<number>> {
    const pids = new Set<number>()
    for (let index = 0; index < count; index++) {
      const client = await this.visit(t)
      pids.add(Number((await client.answer()).headers['x-pid']))
      client.socket.destroy()
    }
    return pids
  }
}

/** One broker with all these services. `more`: further configuration, besides its services and listeners. */
export async function startServices<Name extends string>(
  t: Test,
  definitions: Record<Name, ServiceDefinition>,
  more: Record<string, unknown> = {},
): Promise<{ broker: Broker; services: Record<Name, Service> }> {
  const all = Object.entries<ServiceDefinition>(definitions)
  const broker = await startBroker(t, {
    config: {
      listeners: all.map(([name, { protocol = 'http', listen = '127.0.0.1:0' }]) => ({
        name,
        listen,
        protocol,
        service: name,
      })),
      services: Object.fromEntries(all.map(([name, { config }]) => [name, { ...PATIENT, ...config }])),
      drainDeadline: '10m',
      // A worker that a test stops is not to be taken for a hung one, however slow the machine.
      workerTimeout: '1h',
      ...more,
    },
  })
  const services = Object.fromEntries(all.map(([name]) => [name, new Service(broker, name)]))
  return { broker, services: services as Record<Name, Service> }
}
