import type { Test } from 'tap'
import { batonCommand, type Broker } from './broker.ts'
import { Client } from './client.ts'
import { eventually } from './eventually.ts'
import { Program } from './process.ts'

// Clients that never stop, while processes of the broker are killed.

/** Sends one request after another on a kept connection, and a new connection when one is lost. */
export class Visitor {
  lost = 0
  refused = 0
  answers = 0
  /** Answers to something else, or followed by another one. */
  readonly wrong: string[] = []
  readonly over: Promise<void>
  #stopped = false

  constructor(t: Test, broker: Broker, name: string) {
    this.over = this.#run(t, broker, name)
  }

  stop(): Promise<void> {
    this.#stopped = true
    return this.over
  }

  async #run(t: Test, broker: Broker, name: string): Promise<void> {
    while (!this.#stopped) {
      let client: Client
      try {
        client = await Client.open(t, { host: '127.0.0.1', port: broker.port() })
      } catch {
        this.refused += 1
        continue
      }
      try {
        for (let turn = 0; !this.#stopped; turn += 1) {
          const path = `/${name}-${turn}`
          const { body } = await client.get(path)
          const { path: answered } = JSON.parse(body) as { path: string }
          if (answered !== path || client.received !== '') this.wrong.push(`${path}: ${answered}`)
          this.answers += 1
          // Some are parked when the worker is killed, some are being handed over.
          await new Promise((resolve) => setTimeout(resolve, (turn % 4) * 20))
        }
      } catch (error) {
        this.lost += 1
        t.comment(`${name}: ${String(error)}`)
      }
      client.socket.destroy()
    }
  }
}

export function sum(visitors: readonly Visitor[], of: (visitor: Visitor) => number): number {
  return visitors.reduce((total, each) => total + of(each), 0)
}

/** Resolves once the visitors have got this many more answers. */
export async function served(visitors: readonly Visitor[], count = 200): Promise<void> {
  const before = sum(visitors, ({ answers }) => answers)
  await eventually(() => sum(visitors, ({ answers }) => answers) > before + count, 'clients are served')
}

/** Nothing was refused, or answered twice. */
export function checkAnswers(t: Test, visitors: readonly Visitor[]): void {
  t.equal(
    sum(visitors, ({ refused }) => refused),
    0,
    'no client was refused',
  )
  t.same(
    visitors.flatMap(({ wrong }) => wrong),
    [],
  )
}

/** Another `baton start` with the same configuration. */
export function startAgain(
  t: Test,
  { configFile }: Pick<Broker, 'configFile'>,
  env: NodeJS.ProcessEnv = {},
): Program {
  const args = [batonCommand, 'start', '--config', configFile]
  return new Program(t, process.execPath, args, { group: true, env })
}
