import type { Logger } from 'pino'
import { BrokerError } from '../errors.ts'
import { createLogger, isOutput, type LogFormat } from '../log/logger.ts'
import type { SinkState } from '../log/sink.ts'
import { standardError, standardOutput } from '../log/standard.ts'

/**
 * Limits of what is kept, in characters: an operator's session holds no more than 1 MiB. Output of managed backends has a smaller one
 * of its own, so that a chatty app does not displace the reason why a reload failed.
 */
const MAX_KEPT_BYTES = 512 * 1024
const MAX_KEPT_OUTPUT_BYTES = 64 * 1024

/** How long the output may take to accept what waits before the rest crosses exec, and how long a thread may be in a write, in ms. */
const SETTLE_TIMEOUT_MS = 250
const THREAD_TIMEOUT_MS = 2000

/** What crosses the master's exec: lines that were not written, and what was dropped. */
export interface LogState {
  readonly stdout: SinkState
  readonly stderr: SinkState
}

/** The master's logger, and what it has written since this program began: the answer to who asked for a reload. */
export class StartLog {
  readonly logger: Logger
  readonly format: LogFormat
  readonly #stdout = standardOutput()
  readonly #stderr = standardError()
  #lines: string[] | undefined = []
  #kept = { own: 0, output: 0 }

  /** @param state of the previous program; absent at a start, and after a program that did not have it */
  constructor(format: LogFormat, state?: LogState) {
    this.format = format
    if (state !== undefined) {
      this.#stdout.restore(state.stdout)
      this.#stderr.restore(state.stderr)
    }
    this.logger = createLogger(format, (line) => this.#keep(line))
  }

  /** Lines that could not be written, since the process was started. */
  get dropped(): number {
    return this.#stdout.dropped + this.#stderr.dropped
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

  /** JSON lines, and the end of keeping them. */
  take(): readonly string[] {
    const lines = this.#lines ?? []
    this.#lines = undefined
    return lines
  }

  /**
   * Resolves when what waits is written, or the output does not take it for now. Nothing is written from then on, until `proceed`:
   * exec would cut a write short, or wait for one that is stuck.
   *
   * @throws {BrokerError} BATON_ERR_LOG_STUCK
   */
  async pause(): Promise<void> {
    const outputs = [this.#stdout, this.#stderr]
    const settled = await Promise.all(
      outputs.map((output) => output.settled(SETTLE_TIMEOUT_MS, THREAD_TIMEOUT_MS)),
    )
    for (const output of outputs) output.pause()
    // The other one may have begun another write meanwhile.
    const still = await Promise.all(outputs.map((output) => output.settled(0, THREAD_TIMEOUT_MS)))
    if ([...settled, ...still].every(Boolean)) return
    this.proceed()
    throw new BrokerError('BATON_ERR_LOG_STUCK', `a write has been going on for ${THREAD_TIMEOUT_MS} ms`)
  }

  proceed(): void {
    this.#stdout.proceed()
    this.#stderr.proceed()
  }

  /**
   * Opens the log again where it is a file: log rotation has renamed or removed it.
   *
   * @param reopened has processes that write to the old one follow
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
      this.logger.error({ output: name, reason }, 'the log could not be reopened; the old file is written on')
      return undefined
    }
  }
}

const STDOUT = 1
