import { pino, type Logger } from 'pino'
import { readable } from './readable.ts'
import { standardError, standardOutput } from './standard.ts'
import type { Sink } from './sink.ts'

/** `json` for machines; `text` for a person at a terminal (`baton run`). */
export type LogFormat = 'json' | 'text'

/**
 * Logs to standard output. Node's own warnings, which would go to standard error, are logged too.
 *
 * @param listener also receives each line, as JSON
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
  captureWarnings(logger)
  return logger
}

/** Whether a JSON line contains output of a managed backend. */
export function isOutput(line: string): boolean {
  return line.includes('"stream":"std')
}

function reportDropped(logger: Logger, output: 'stdout' | 'stderr', sink: Sink): void {
  sink.onResume = (lines, cause) => {
    const reason = cause === 'EAGAIN' ? 'the output was too slow' : cause
    logger.warn({ output, lines, reason }, 'log lines were dropped')
  }
}

/** Logs Node's warnings: Node would write them to `process.stderr`, where a write error would end the process. */
function captureWarnings(logger: Logger): void {
  // With --no-warnings, Node installs no listener.
  if (process.listenerCount('warning') === 0) return
  process.removeAllListeners('warning')
  process.on('warning', ({ name, message }) => logger.warn({ reason: `${name}: ${message}` }, 'warning'))
}
