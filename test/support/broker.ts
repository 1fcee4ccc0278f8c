import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { SOON } from './limits.ts'
import { Program, root, temporaryFolder } from './process.ts'
import { signal } from './signal.ts'

export const batonCommand = join(root, 'packages/broker/bin/baton.js')

export interface BrokerOptions {
  /** Merged into a configuration with one http listener `web` on a free port and one service `web`. */
  config?: Record<string, unknown>
  env?: NodeJS.ProcessEnv
  /** Default: `batonCommand`. */
  command?: string
  /** RLIMIT_NOFILE, set before it starts. */
  descriptors?: number
}

/** A broker as a user starts it: `baton start --config FILE`, in its own folder. */
export class Broker {
  readonly program: Program
  readonly folder: string
  readonly configFile: string
  readonly control: string
  /** Base URL of the admin server. */
  readonly admin: string
  /** The first worker: the process that serves clients and backends. The master is `program`. */
  readonly pid: number
  readonly #listeners: Record<string, string>

  constructor(program: Program, folder: string, configFile: string, ready: Record<string, unknown>) {
    this.program = program
    this.folder = folder
    this.configFile = configFile
    this.control = ready['control'] as string
    this.admin = `http://${ready['admin'] as string}`
    this.pid = Number(ready['pid'])
    this.#listeners = ready['listeners'] as Record<string, string>
  }

  /** `host:port` as bound. */
  address(listener = 'web'): string {
    const address = this.#listeners[listener]
    if (address === undefined) throw new Error(`no listener ${listener}`)
    return address
  }

  port(listener = 'web'): number {
    return Number(this.address(listener).split(':').at(-1))
  }

  url(path = '/', listener = 'web'): string {
    return `http://${this.address(listener)}${path}`
  }

  /** SIGKILL of the whole broker, starting with the master, which would otherwise replace the worker. Resolves when both are gone. */
  async die(): Promise<void> {
    this.program.kill('SIGKILL')
    signal(this.pid, 'SIGKILL')
    await this.program.exited
  }

  /**
   * Over a keep-alive connection, which belongs to one worker and ends with it. A request in flight at that moment is sent again, as
   * HTTP clients may do with a GET (RFC 9112, 9.3.1); `fetch` does not.
   */
  async #get(path: string): Promise<string> {
    const get = async () => (await fetch(`${this.admin}${path}`)).text()
    return get().catch((error: Error & { cause?: { code?: string } }) => {
      if (!['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE'].includes(error.cause?.code ?? '')) throw error
      return get()
    })
  }

  async status(): Promise<Status> {
    return JSON.parse(await this.#get('/api/v1/status')) as Status
  }

  async metrics(): Promise<string> {
    return this.#get('/metrics')
  }

  /** Value of one series; labels in the exposition's order. */
  async metric(series: string): Promise<number> {
    const line = (await this.metrics()).split('\n').find((each) => each.startsWith(`${series} `))
    if (line === undefined) throw new Error(`no series ${series}`)
    return Number(line.slice(series.length + 1))
  }

  /** Polls at short intervals until `holds`, because there is no event for the broker's state. */
  async until(holds: (status: Status) => boolean, what: string, timeout = SOON): Promise<Status> {
    const end = performance.now() + timeout
    for (;;) {
      const status = await this.status()
      if (holds(status)) return status
      if (performance.now() > end)
        throw new Error(`not within ${timeout} ms: ${what}\n${JSON.stringify(status, null, 1)}`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  async backends(count: number, service = 'web'): Promise<Status> {
    return this.until(
      ({ services }) =>
        services.find(({ name }) => name === service)?.backends.filter(({ state }) => state === 'ready')
          .length === count,
      `${count} ready backends of ${service}`,
    )
  }
}

export interface Status {
  broker: { id: string; pid: number; master: number | null; state: string }
  listeners: { name: string; address: string; accepted: number; accepting: boolean }[]
  services: {
    name: string
    held: number
    inFlight: number
    stuck: number
    upstreams?: readonly { address: string; weight: number }[]
    parked: number
    handedBack: number
    shift?: { to: string; share: number } | null
    outcomes: Record<
      'handed_off' | 'relayed' | 'rejected' | 'client_gone' | 'relinquished' | 'idle_closed',
      number
    >
    backends: {
      id: string
      slot: string
      state: string
      pid: number
      load: number
      adopted: number
      closed: number
      handedBack: number
      lagMs: number | null
    }[]
  }[]
}

export async function startBroker(t: Test, options: BrokerOptions = {}): Promise<Broker> {
  const folder = temporaryFolder(t)
  const configFile = join(folder, 'baton.json')
  writeFileSync(
    configFile,
    JSON.stringify({
      runtimeDir: join(folder, 'run'),
      admin: { listen: '127.0.0.1:0' },
      listeners: [{ name: 'web', listen: '127.0.0.1:0', protocol: 'http', service: 'web' }],
      services: { web: {} },
      ...options.config,
    }),
  )
  const command = [process.execPath, options.command ?? batonCommand, 'start', '--config', configFile]
  if (options.descriptors !== undefined) command.unshift('prlimit', `--nofile=${options.descriptors}`)
  const [file = '', ...args] = command
  const program = new Program(t, file, args, { group: true, ...(options.env && { env: options.env }) })
  return new Broker(program, folder, configFile, await program.message('accepting connections'))
}

/** I4 and M9 at rest: each connection that was accepted or handed back is accounted for exactly once. */
export function unaccounted(status: Status): number {
  const accepted = status.listeners.reduce((sum, listener) => sum + listener.accepted, 0)
  const accounted = status.services.reduce(
    (sum, { held, inFlight, parked, handedBack, outcomes }) =>
      sum + held + inFlight + parked - handedBack + Object.values(outcomes).reduce((a, b) => a + b, 0),
    0,
  )
  return accepted - accounted
}
