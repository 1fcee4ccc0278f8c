import { pino, type Logger } from 'pino'

import type { Config } from '../config/index.ts'
import { loadServed } from './check.ts'
import { configOption, DEFAULT_CONFIG, type Command } from './command.ts'
import { DONE, FAILED } from './terminal.ts'

export const start: Command = {
  name: 'start',
  operands: [],
  summary: 'run the broker',
  details: [
    'Runs the broker in the foreground, with JSON logs on standard output. SIGTERM or SIGINT drains it and ends it',
    'with exit code 0; a second one ends it at once.',
  ].join('\n'),
  options: configOption,
  async run({ values }, terminal) {
    const config = loadServed(values.get('config') ?? DEFAULT_CONFIG, terminal)
    // Loaded here: no other command needs libc, and a platform without it can still check a file.
    const { startWorker } = await import('../worker.ts')
    const logger = pino({ name: 'baton' })
    return serve({ config, logger, startWorker, signals: process, exit: (code) => process.exit(code) })
  },
}

/** As much of the worker as its life needs. */
interface Running {
  drain(deadlineMs: number): Promise<void>
  close(): Promise<void>
}

interface SignalSource {
  on(signal: 'SIGTERM' | 'SIGINT', listener: (signal: NodeJS.Signals) => void): unknown
  off(signal: 'SIGTERM' | 'SIGINT', listener: (signal: NodeJS.Signals) => void): unknown
}

interface Serving {
  readonly config: Config
  readonly logger: Logger
  readonly startWorker: (config: Config, options: { logger: Logger }) => Promise<Running>
  /** Where signals come from: the process. */
  readonly signals: SignalSource
  /** Ends the process at once. */
  readonly exit: (code: number) => void
}

/**
 * Runs a worker until the first SIGTERM or SIGINT, then drains it. A signal that comes while it starts is kept
 * until it can be obeyed.
 *
 * @returns the exit code
 * @throws what `startWorker` throws
 */
export async function serve({ config, logger, startWorker, signals, exit }: Serving): Promise<number> {
  let obey: (signal: NodeJS.Signals) => void
  const asked = new Promise<NodeJS.Signals>((resolve) => (obey = resolve))
  let count = 0
  const onSignal = (signal: NodeJS.Signals) => {
    count += 1
    if (count === 1) return obey(signal)
    logger.warn({ signal }, 'second signal: ending at once')
    return exit(FAILED)
  }
  signals.on('SIGTERM', onSignal)
  signals.on('SIGINT', onSignal)
  try {
    const worker = await startWorker(config, { logger })
    logger.info({ signal: await asked, deadlineMs: config.drainDeadline }, 'draining')
    await worker.drain(config.drainDeadline)
    await worker.close()
    logger.info('stopped')
    return DONE
  } finally {
    signals.off('SIGTERM', onSignal)
    signals.off('SIGINT', onSignal)
  }
}
