import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Broker, startBroker } from './broker.ts'
import { Client } from './client.ts'
import { program } from './commands.ts'
import { freePort } from './free-port.ts'
import { configure, reload } from './operator.ts'
import { temporaryFolder } from './process.ts'
import { PATIENT } from './service.ts'

/** A managed service `web` whose version can be changed, and made to fail. */
export class CanaryService {
  readonly broker: Broker
  readonly #folder: string

  private constructor(broker: Broker, folder: string) {
    this.broker = broker
    this.#folder = folder
  }

  /** Version 1.0 runs. @param more of the service's configuration */
  static async start(t: Test, more: Record<string, unknown> = {}): Promise<CanaryService> {
    const folder = temporaryFolder(t)
    const services = servicesOf(folder, '1.0', more)
    const admin = { listen: `127.0.0.1:${await freePort()}` }
    const config = { admin, services, drainDeadline: '10m', workerTimeout: '1h' }
    const broker = await startBroker(t, { config })
    await broker.backends(2)
    return new CanaryService(broker, folder)
  }

  /** The next deploy is of this version. */
  async next(t: Test, version: string, more: Record<string, unknown> = {}): Promise<void> {
    configure(this.broker, { services: servicesOf(this.#folder, version, more) })
    const { success, log } = await reload(t, this.broker)
    if (!success) throw new Error(log.join('\n'))
    await this.broker.backends(2)
  }

  /** Whether this version fails its health checks, and all requests. */
  fails(version: string, fails: boolean): void {
    const file = join(this.#folder, `bad-${version}`)
    if (fails) writeFileSync(file, '')
    else rmSync(file)
  }

  /** One request from this address. @returns the version and the status that answered it */
  async ask(t: Test, localAddress: string): Promise<{ version: string; status: number }> {
    const client = await Client.open(t, { host: '127.0.0.1', port: this.broker.port(), localAddress })
    client.request('/')
    const { status, headers } = await client.answer()
    client.socket.destroy()
    return { version: String(headers['x-version']), status }
  }
}

function servicesOf(cwd: string, version: string, more: Record<string, unknown>): Record<string, unknown> {
  const web = {
    ...PATIENT,
    command: program('versioned-backend.mjs'),
    instances: 2,
    minHealthy: '0s',
    cwd,
    env: { BATON_VERSION: version },
    healthCheck: { interval: 100, timeout: '10m' },
    ...more,
  }
  return { web }
}

/** `count` addresses of clients: `127.1.0.0` and so on. */
export function addresses(count: number): string[] {
  return Array.from(
    { length: count },
    (_, index) => `127.${1 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`,
  )
}
