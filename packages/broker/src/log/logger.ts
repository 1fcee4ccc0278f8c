import { pino, type Logger } from 'pino'
import { readable } from './readable.ts'

/** `json` for machines; `text` where somebody sits before the terminal (`baton run`). */
export type LogFormat = 'json' | 'text'

/**
 * Standard output, by lines of pino's JSON.
 *
 * @param listener hears each line as well, before it is formatted
 */
export function createLogger(format: LogFormat, listener?: (line: string) => void): Logger {
  const output = pino.destination({ fd: 1, sync: true })
  return pino(
    { name: 'baton' },
    {
      write: (line) => {
        output.write(format === 'json' ? line : `${readable(line)}\n`)
        listener?.(line)
      },
    },
  )
}
