import type { Logger } from 'pino'
import { BrokerError } from '../errors.ts'
import { createLogger, isOutput, type LogFormat } from '../log/logger.ts'
import type { SinkState } from '../log/sink.ts'
import { standardError, standardOutput } from '../log/standard.ts'

/**
 * Limits of what is kept, in characters: an operator's session holds at most 1 MiB. Output of managed backends has its own, smaller
 * limit, so that a chatty app does not displace the reason why a reload failed.
 */
const MAX_KEPT_BYTES = 512 * 1024
const MAX_KEPT_OUTPUT_BYTES = 64 * 1024

/** In ms: how long to wait for the output to accept pending lines before the rest crosses exec, and how long a thread may be in a write. */
const SETTLE_TIMEOUT_MS = 250
const THREAD_TIMEOUT_MS = 2000

/** Crosses the master's exec: unwritten lines, and the number of dropped ones. */
export interface LogState {
  readonly stdout: SinkState
  readonly stderr: SinkState
}

/** The master's logger. Keeps the lines logged since this program started, which are the answer to a request for a reload. */
export class StartLog {
  readonly logger: Logger
  readonly format: LogFormat
  readonly #stdout = standardOutput()
  readonly #stderr = standardError()
  #lines: string[] | undefined = []
  #kept = { own: 0, output: 0 }
  #otherDropped = () => 0

  /** @param state from the previous program; absent at a start, and after a version that had none */
  constructor(format: LogFormat, state?: LogState) {
    this.format = format
    if (state !== undefined) {
      this.#stdout.restore(state.stdout)
      this.#stderr.restore(state.stderr)
    }
    this.logger = createLogger(format, (line) => this.#keep(line))
  }

  /** Lines dropped since the process was started, because they could not be written. */
  get dropped(): number {
    return this.#stdout.dropped + this.#stderr.dropped + this.#otherDropped()
  }

  /** Counts the lines that another output has dropped with those of the log. */
  countDropped(of: { readonly dropped: number }): void {
    this.#otherDropped = () => of.dropped
  }

  get state(): LogState {
    return { stdout: this.#stdout.state, stderr: this.#stderr.state }
  }

  #keep(line: string): void {
    if (this.#lines === undefined) return
    const kind = isOutput(line) ? 'output' : 'own'
    if (this.#kept[kind] + line.length > (kind === 'own' ? MAX_KEPT_BYTES : MAX_KEPT_OUTPUT_BYTES)) return
    this.#kept[kind] += line.length
    this.#lines.push(line.trimEnd())
  }

  /** Returns the kept lines, as JSON, and stops keeping them. */
  take(): readonly string[] {
    const lines = this.#lines ?? []
    this.#lines = undefined
    return lines
  }

  /**
   * Resolves when pending lines are written, or the output does not accept them for now. Writing then stops until `proceed`,
   * because exec would cut a write short, or wait for one that is stuck.
   *
   * @throws {BrokerError} BATON_ERR_LOG_STUCK
   */
  async pause(): Promise<void> {
    const outputs = [this.#stdout, this.#stderr]
    const settled = await Promise.all(
      outputs.map((output) => output.settled(SETTLE_TIMEOUT_MS, THREAD_TIMEOUT_MS)),
    )
    for (const output of outputs) output.pause()
    // The other output may have begun a write meanwhile.
    const still = await Promise.all(outputs.map((output) => output.settled(0, THREAD_TIMEOUT_MS)))
    if ([...settled, ...still].every(Boolean)) return
    this.proceed()
    throw new BrokerError('BATON_ERR_LOG_STUCK', `a write has been blocked for ${THREAD_TIMEOUT_MS} ms`)
  }

  proceed(): void {
    this.#stdout.proceed()
    this.#stderr.proceed()
  }

  /**
   * Reopens the log if it is a file, after log rotation has renamed or removed it.
   *
   * @param reopened switches other processes to the new file; borrows the descriptor
   */
  reopen(reopened: (stdout: number) => void): void {
    const paths = [this.#reopen('stdout'), this.#reopen('stderr')].filter((path) => path !== undefined)
    if (paths.length === 0) return this.logger.info('the log is not a file; there is nothing to reopen')
    reopened(STDOUT)
    for (const path of new Set(paths)) this.logger.info({ path }, 'log reopened')
  }

  #reopen(name: 'stdout' | 'stderr'): string | undefined {
    try {
      return (name === 'stdout' ? this.#stdout : this.#stderr).reopen()
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      this.logger.error({ output: name, reason }, 'cannot reopen the log; still writing to the old file')
      return undefined
    }
  }
}

const STDOUT = 1
