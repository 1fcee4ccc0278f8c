import type { Logger } from 'pino'
import { LineSplitter } from './lines.ts'

export type OutputStream = 'stdout' | 'stderr'

/** How many of a process's last lines are kept to say why it failed. */
const KEPT_LINES = 50

/** Bytes of lines that have begun and not ended, by stream. */
export type PartialLines = Readonly<Record<OutputStream, Buffer>>

/** What one process says: each line goes to the log, and the last ones are kept. */
export class ProcessOutput {
  readonly #streams: Record<OutputStream, { splitter: LineSplitter; logger: Logger }>
  readonly #last: string[] = []

  /** @param logger names the process already */
  constructor(logger: Logger, partial?: PartialLines) {
    this.#streams = {
      stdout: { splitter: new LineSplitter(partial?.stdout), logger: logger.child({ stream: 'stdout' }) },
      stderr: { splitter: new LineSplitter(partial?.stderr), logger: logger.child({ stream: 'stderr' }) },
    }
  }

  /** The last lines of both streams, oldest first. Those from before a re-execution of the master are in the log alone. */
  get last(): readonly string[] {
    return this.#last
  }

  get partial(): PartialLines {
    const { stdout, stderr } = this.#streams
    return { stdout: stdout.splitter.partial, stderr: stderr.splitter.partial }
  }

  write(stream: OutputStream, chunk: Buffer): void {
    const { splitter, logger } = this.#streams[stream]
    this.#log(splitter.push(chunk), logger)
  }

  /** Nothing more comes. */
  end(): void {
    for (const { splitter, logger } of Object.values(this.#streams)) this.#log(splitter.end(), logger)
  }

  /** A line that is not the process's own, such as why it could not be started. */
  note(line: string): void {
    this.#keep([line])
  }

  #log(lines: string[], logger: Logger): void {
    for (const line of lines) logger.info(line)
    this.#keep(lines)
  }

  #keep(lines: readonly string[]): void {
    // Not push(...lines): one chunk may hold more lines than a call takes arguments.
    for (const line of lines.slice(-KEPT_LINES)) this.#last.push(line)
    if (this.#last.length > KEPT_LINES) this.#last.splice(0, this.#last.length - KEPT_LINES)
  }
}
