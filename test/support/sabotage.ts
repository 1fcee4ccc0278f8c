import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Broker, startBroker } from './broker.ts'
import { eventually } from './eventually.ts'
import { root, temporaryFolder } from './process.ts'

type Fault =
  | 'check'
  | 'worker'
  | 'slow-check'
  | 'slow-master'
  | 'slow-worker'
  | 'gap'
  | 'patient-master'
  | 'dying-master'
  | 'busy-worker'
  | 'blocked-worker'
  | 'signalled-check'
  | 'signalled-worker'

type SlowFault = 'slow-check' | 'slow-master' | 'slow-worker' | 'gap'

/** Resolves with the pid of a process that has reached the fault. */
export async function reached(folder: string, what: SlowFault): Promise<number> {
  const file = join(folder, `${what}-reached`)
  await eventually(() => existsSync(file) && readFileSync(file, 'utf8') !== '', `${what} is reached`)
  const pid = Number(readFileSync(file, 'utf8'))
  rmSync(file)
  return pid
}

/** A broker whose reloads can be made to fail: `test/programs/sabotage.mjs`. */
export class Sabotaged {
  readonly broker: Broker
  readonly #folder: string

  constructor(broker: Broker, folder: string) {
    this.broker = broker
    this.#folder = folder
  }

  /** Of the broker, and of another one that is to have the same faults. */
  get env(): NodeJS.ProcessEnv {
    return sabotaged(this.#folder)
  }

  static async start(t: Test, config: Record<string, unknown> = {}): Promise<Sabotaged> {
    const folder = temporaryFolder(t)
    return new Sabotaged(await startBroker(t, { config, env: sabotaged(folder) }), folder)
  }

  /** @param detail the signal, or the type of a message, if the fault needs one */
  begin(what: Fault, detail = ''): void {
    writeFileSync(join(this.#folder, what), detail)
  }

  end(what: Fault): void {
    rmSync(join(this.#folder, what))
  }

  /** Resolves when a process has reached the fault; only for slow ones. */
  async reached(what: SlowFault): Promise<void> {
    await reached(this.#folder, what)
  }

  endAll(): void {
    for (const what of readdirSync(this.#folder)) this.end(what as Fault)
  }
}

/** For a broker that is started otherwise; files in `folder` select the faults. */
export function sabotaged(folder: string): NodeJS.ProcessEnv {
  return { SABOTAGE: folder, NODE_OPTIONS: `--import=${join(root, 'test/programs/sabotage.mjs')}` }
}
