import type { Logger } from 'pino'
import { createLogger, type LogFormat } from '../log/logger.ts'

/** A chatty start has an end all the same. */
const MOST_LINES = 1000

/** The master's logger, and what it has written since this program began: the answer to who asked for a reload. */
export class StartLog {
  readonly logger: Logger
  readonly format: LogFormat
  #lines: string[] | undefined = []

  constructor(format: LogFormat) {
    this.format = format
    this.logger = createLogger(format, (line) => {
      if (this.#lines !== undefined && this.#lines.length < MOST_LINES) this.#lines.push(line.trimEnd())
    })
  }

  /** JSON lines, and the end of keeping them. */
  take(): readonly string[] {
    const lines = this.#lines ?? []
    this.#lines = undefined
    return lines
  }
}
