import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { type Broker, startBroker } from './broker.ts'
import type { BrokerFacts } from '../../packages/broker/dist/api/master-status.js'
import { batonHere } from './command.ts'
import { eventually } from './eventually.ts'
import { say } from './operator.ts'
import { root } from './process.ts'

// A broker whose managed backends print, and what `baton logs` shows of it.

export interface Line {
  readonly time: string
  readonly service: string
  readonly instance: string
  readonly backend: string
  readonly slot: string | null
  readonly stream: string
  readonly msg: string
}

const command = [process.execPath, join(root, 'test/programs/printing-backend.mjs')]
const listener = (name: string) => ({ name, listen: '127.0.0.1:0', protocol: 'http', service: name })

export async function startPrinting(t: Test, keepOutput: unknown): Promise<Broker> {
  const broker = await startBroker(t, {
    config: {
      listeners: [listener('web'), listener('api')],
      services: {
        web: { command, instances: 2, env: { BATON_VERSION: '1.0' } },
        api: { command },
        outside: {},
        quiet: { command, keepOutput: 'off' },
      },
      keepOutput,
    },
  })
  await broker.backends(2)
  await broker.backends(1, 'api')
  await broker.backends(1, 'quiet')
  // The master hears of them a moment later; until then it does not know the slot of what they print.
  await eventually(async () => {
    const { services } = (JSON.parse(await say(t, broker, 'status')) as { broker: BrokerFacts }).broker
    return services.reduce((sum, { ready }) => sum + ready, 0) === 4
  }, 'the master knows all four')
  return broker
}

/** Over a connection of its own, to whichever backend gets it. */
export async function ask(broker: Broker, path: string, service = 'web'): Promise<string> {
  return (await fetch(broker.url(path, service), { headers: { connection: 'close' } })).text()
}

export function outputFiles(broker: Broker): string[] {
  return readdirSync(join(broker.folder, 'run/output'))
}

export async function logsOf(broker: Broker, ...args: string[]): Promise<Line[]> {
  const { code, out, err } = await batonHere('logs', ...args, '--json', '--config', broker.configFile)
  if (code !== 0) throw new Error(err.join('\n'))
  return parsed(out)
}

/** Without the lines of the SDK. */
export function parsed(out: readonly string[]): Line[] {
  return out.map((line) => JSON.parse(line) as Line).filter(({ msg }) => !msg.startsWith('baton: '))
}

/** Numbers of the lines that `/print` has printed. */
export function numbersIn(lines: readonly Line[]): number[] {
  return lines.flatMap(({ msg }) => {
    const [, number, rest = ''] = /^line (\d+) (x*)$/.exec(msg) ?? []
    return number === undefined || rest.length !== Number(number) % 100 ? [] : [Number(number)]
  })
}

export const upTo = (count: number) => Array.from({ length: count }, (_, index) => index)
export const ascending = (numbers: readonly number[]) => numbers.toSorted((one, other) => one - other)
