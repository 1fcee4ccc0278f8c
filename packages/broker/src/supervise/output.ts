import type { Logger } from 'pino'
import type { OutputStream } from '../log/kept/line.ts'
import { LineSplitter } from './lines.ts'

export type { OutputStream } from '../log/kept/line.ts'

const STREAMS = ['stdout', 'stderr'] as const

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

/** Keeps lines, in order. */
export type KeepLines = (stream: OutputStream, lines: readonly string[]) => void

/** The output of one process as lines: each goes to the log and is kept, and the last ones are remembered here. */
export class ProcessOutput {
  readonly #keep: KeepLines
  readonly #streams: Record<OutputStream, { splitter: LineSplitter; logger: Logger }>
  readonly #last = new LastLines(KEPT_LINES)

  /** @param logger its lines name the process */
  constructor(logger: Logger, keep: KeepLines, partial?: PartialLines) {
    this.#keep = keep
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
    this.#log(stream, this.#streams[stream].splitter.push(chunk))
  }

  /** All output was written: logs incomplete last lines. */
  end(): void {
    for (const stream of STREAMS) this.#log(stream, this.#streams[stream].splitter.end())
  }

  /** Keeps a line that the process did not write itself, such as why it could not be started. */
  note(line: string): void {
    this.#last.push([line])
  }

  #log(stream: OutputStream, lines: string[]): void {
    const { logger } = this.#streams[stream]
    for (const line of lines) logger.info(line)
    this.#keep(stream, lines)
    this.#last.push(lines)
  }
}
