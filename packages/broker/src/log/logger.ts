import { pino, type Logger } from 'pino'
import { readable } from './readable.ts'
import { standardError, standardOutput } from './standard.ts'
import type { Sink } from './sink.ts'

/** `json` for machines; `text` where somebody sits before the terminal (`baton run`). */
export type LogFormat = 'json' | 'text'

/**
 * Standard output, by lines of pino's JSON. Node's own warnings, which it would write to standard error, are among them.
 *
 * @param listener hears each line as well, before it is formatted
 */
export function createLogger(format: LogFormat, listener?: (line: string) => void): Logger {
  const output = standardOutput()
  const logger = pino(
    { name: 'baton' },
    {
      write: (line) => {
        const origin = isOutput(line) ? 'output' : 'own'
        output.write(format === 'json' ? line : `${readable(line)}\n`, origin)
        listener?.(line)
      },
    },
  )
  reportDropped(logger, 'stdout', output)
  reportDropped(logger, 'stderr', standardError())
  takeWarnings(logger)
  return logger
}

/** Whether a line of JSON is what a managed backend printed. */
export function isOutput(line: string): boolean {
  return line.includes('"stream":"std')
}

function reportDropped(logger: Logger, output: 'stdout' | 'stderr', sink: Sink): void {
  sink.onResume = (lines, cause) => {
    const reason = cause === 'EAGAIN' ? 'the output was too slow' : cause
    logger.warn({ output, lines, reason }, 'log lines were dropped')
  }
}

/** Node writes a warning to `process.stderr`, whose error would end the process. */
function takeWarnings(logger: Logger): void {
  // With --no-warnings there is no listener.
  if (process.listenerCount('warning') === 0) return
  process.removeAllListeners('warning')
  process.on('warning', ({ name, message }) => logger.warn({ reason: `${name}: ${message}` }, 'warning'))
}
