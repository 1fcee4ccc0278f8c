// The types of `@baton/broker` from a program's point of view.
import {
  BrokerError,
  type BrokerErrorCode,
  type Config,
  ConfigError,
  loadConfig,
  parseConfig,
  startWorker,
  type Worker,
} from '@baton/broker'
import { pino } from 'pino'
import { same } from './same.ts'

const config = loadConfig('baton.json')
same<Config, typeof config>(true)
// The input is checked at run time, so it may be of any type.
same<Config, ReturnType<typeof parseConfig>>(true)
parseConfig(JSON.parse('{}'))
// @ts-expect-error: a checked configuration is read-only
config.drainDeadline = 5
// @ts-expect-error: text in the file, milliseconds here
same<string, typeof config.drainDeadline>(true)

const worker = startWorker(config, { logger: pino() })
same<Promise<Worker>, typeof worker>(true)
// @ts-expect-error: the logger is required
void startWorker(config, {})
// @ts-expect-error: a configuration, not its file
void startWorker('baton.json', { logger: pino() })

export async function look(): Promise<void> {
  const started = await worker
  const { addresses } = started
  same<string | undefined, ReturnType<typeof addresses.get>>(true)
  // @ts-expect-error: bound already
  addresses.set('web', '127.0.0.1:80')
  for (const { name, backends } of started.status().services)
    same<[string, number], [typeof name, typeof backends.length]>(true)
  // @ts-expect-error: milliseconds
  await started.drain('30s')
}

const failure: unknown = undefined
if (failure instanceof BrokerError) same<BrokerErrorCode, typeof failure.code>(true)
if (failure instanceof ConfigError) same<string, (typeof failure.problems)[number]['path']>(true)
