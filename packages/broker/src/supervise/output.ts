import type { Logger } from 'pino'
import { LineSplitter } from './lines.ts'

export type OutputStream = 'stdout' | 'stderr'

/** Lines of a process's output that are kept to show why it failed. */
const KEPT_LINES = 50

/** Incomplete last lines, by stream. */
export type PartialLines = Readonly<Record<OutputStream, Buffer>>

/** The last lines of a process's output, to show why it failed. */
export class LastLines {
  readonly #limit: number
  readonly #lines: string[] = []

  constructor(limit: number) {
    this.#limit = limit
  }

  /** Oldest first. */
  get lines(): readonly string[] {
    return this.#lines
  }

  push(lines: readonly string[]): void {
    // Not push(...lines): one chunk may hold more lines than a call takes arguments.
    for (const line of lines.slice(-this.#limit)) this.#lines.push(line)
    if (this.#lines.length > this.#limit) this.#lines.splice(0, this.#lines.length - this.#limit)
  }
}

/** The output of one process as lines: each goes to the log, and the last ones are kept. */
export class ProcessOutput {
  readonly #streams: Record<OutputStream, { splitter: LineSplitter; logger: Logger }>
  readonly #last = new LastLines(KEPT_LINES)

  /** @param logger its lines name the process */
  constructor(logger: Logger, partial?: PartialLines) {
    this.#streams = {
      stdout: { splitter: new LineSplitter(partial?.stdout), logger: logger.child({ stream: 'stdout' }) },
      stderr: { splitter: new LineSplitter(partial?.stderr), logger: logger.child({ stream: 'stderr' }) },
    }
  }

  /** The last lines of both streams, oldest first. Lines from before a re-execution of the master are only in the log. */
  get last(): readonly string[] {
    return this.#last.lines
  }

  get partial(): PartialLines {
    return { stdout: this.#streams.stdout.splitter.partial, stderr: this.#streams.stderr.splitter.partial }
  }

  write(stream: OutputStream, chunk: Buffer): void {
    const { splitter, logger } = this.#streams[stream]
    this.#log(splitter.push(chunk), logger)
  }

  /** All output was written: logs incomplete last lines. */
  end(): void {
    for (const { splitter, logger } of Object.values(this.#streams)) this.#log(splitter.end(), logger)
  }

  /** Keeps a line that the process did not write itself, such as why it could not be started. */
  note(line: string): void {
    this.#last.push([line])
  }

  #log(lines: string[], logger: Logger): void {
    for (const line of lines) logger.info(line)
    this.#last.push(lines)
  }
}
