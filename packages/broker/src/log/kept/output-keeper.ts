import type { Logger } from 'pino'
import { addOutput } from '../congestion.ts'
import { Relief } from '../relief.ts'
import { outputFolder } from './files.ts'
import { type KeepLimits, KeptService, type KeptServiceState } from './kept-service.ts'
import { formatLines, type OutputSource, type OutputStream } from './line.ts'

/** How long the end of a process waits while a disk accepts none of the pending lines, in ms. */
const END_STALL_MS = 500

/** How long it waits altogether for a disk that accepts some of them, in ms. */
const END_LIMIT_MS = 5000

/** Interval at which `settled` checks for progress, in ms. */
const POLL_INTERVAL_MS = 5

/** State that crosses an exec, by service. */
export type OutputKeeperState = Readonly<Record<string, KeptServiceState>>

export interface OutputKeeperOptions {
  readonly runtimeDir: string
  /** Undefined: the output of the service is not kept. Asked for each chunk. */
  readonly limits: (service: string) => KeepLimits | undefined
  readonly logger: Logger
}

/**
 * Keeps the output of managed backends in files below `runtimeDir` (`files.ts`), for `baton logs`. Nothing here throws or blocks: lines that a
 * slow, full or hung disk does not accept are kept in a bounded buffer for each service, and lines beyond its limit are dropped and counted.
 * One step is taken at a time, so a disk that hangs holds a single thread of the pool.
 */
export class OutputKeeper {
  readonly #folder: string
  readonly #options: OutputKeeperOptions
  readonly #services = new Map<string, KeptService>()
  readonly #relief = new Relief()
  readonly #removeOutput: () => void
  #inStep = false
  #paused = false
  #timer: NodeJS.Timeout | undefined
  readonly #onExit = () => {
    if (!this.#inStep) for (const service of this.#services.values()) service.exit()
  }

  constructor(options: OutputKeeperOptions, state: OutputKeeperState = {}) {
    this.#folder = outputFolder(options.runtimeDir)
    this.#options = options
    this.#removeOutput = addOutput(this)
    process.on('exit', this.#onExit)
    for (const [name, saved] of Object.entries(state)) this.#service(name).restore(saved)
    this.#schedule()
  }

  get congested(): boolean {
    for (const service of this.#services.values()) if (service.congested) return true
    return false
  }

  /** Lines dropped, including before an exec in place; never decreases. */
  get dropped(): number {
    return [...this.#services.values()].reduce((sum, { dropped }) => sum + dropped, 0)
  }

  get state(): OutputKeeperState {
    return Object.fromEntries([...this.#services].map(([name, service]) => [name, service.state]))
  }

  write(source: OutputSource, stream: OutputStream, lines: readonly string[]): void {
    if (lines.length === 0 || this.#options.limits(source.service) === undefined) return
    const service = this.#service(source.service)
    for (const text of formatLines(source, stream, lines, new Date())) service.push(text)
    this.#schedule()
  }

  relieved(limit: number): Promise<void> {
    return this.#relief.wait(limit)
  }

  /**
   * Takes no further step until `proceed`: the program is about to be replaced. What is pending crosses the exec.
   *
   * @param limit time for pending lines to be written, in ms
   * @param stepLimit time for the step in progress to end
   * @returns false if a thread is stuck in a step
   */
  async pause(limit: number, stepLimit: number): Promise<boolean> {
    await this.#settled(limit, () => this.#due === undefined && !this.#inStep)
    this.#paused = true
    return this.#settled(stepLimit, () => !this.#inStep)
  }

  proceed(): void {
    this.#paused = false
    this.#schedule()
  }

  /**
   * Waits for pending lines to be written, but not for a disk that accepts none.
   *
   * @param limits in ms: how long it may accept none (`stall`), and how long this may take altogether
   */
  async end({ stall = END_STALL_MS, whole = END_LIMIT_MS } = {}): Promise<void> {
    const from = performance.now()
    const isWritten = () => this.#due === undefined && !this.#inStep
    const isStalled = () => performance.now() >= Math.max(from, this.#lastProgressAt) + stall
    await this.#settled(whole, () => isWritten() || isStalled())
    this.#paused = true
    clearTimeout(this.#timer)
    this.#removeOutput()
    process.off('exit', this.#onExit)
    if (!this.#inStep) for (const service of this.#services.values()) await service.close()
  }

  #service(name: string): KeptService {
    const known = this.#services.get(name)
    if (known !== undefined) return known
    const { logger } = this.#options
    /** The last ones: of what is still pending when the output is no longer to be kept. */
    let limits: KeepLimits = { size: Number.MAX_SAFE_INTEGER, files: Number.MAX_SAFE_INTEGER }
    const service = new KeptService(
      this.#folder,
      name,
      () => (limits = this.#options.limits(name) ?? limits),
      {
        failed: (reason) =>
          logger.error({ service: name, reason }, 'the output of a service cannot be kept; trying again'),
        resumed: (lines, reason) =>
          logger.warn({ service: name, lines, reason }, 'lines of kept output were dropped'),
      },
    )
    this.#services.set(name, service)
    return service
  }

  /** When the disk last accepted bytes: by performance.now(). */
  get #lastProgressAt(): number {
    return Math.max(...[...this.#services.values()].map(({ lastProgressAt }) => lastProgressAt))
  }

  /** The service whose step may be taken now, or soonest. Undefined if nothing is pending. */
  get #due(): KeptService | undefined {
    let first: KeptService | undefined
    for (const service of this.#services.values())
      if (!service.empty && (first === undefined || service.retryAt < first.retryAt)) first = service
    return first
  }

  #schedule(): void {
    if (this.#inStep || this.#paused) return
    const due = this.#due
    if (due === undefined) return
    clearTimeout(this.#timer)
    const delay = due.retryAt - performance.now()
    if (delay <= 0) return void this.#step(due)
    this.#timer = setTimeout(() => this.#schedule(), delay).unref()
  }

  async #step(service: KeptService): Promise<void> {
    this.#inStep = true
    await service.step()
    this.#inStep = false
    // Others first, next time.
    this.#services.delete(service.name)
    this.#services.set(service.name, service)
    if (!this.congested) this.#relief.come()
    this.#schedule()
  }

  async #settled(limit: number, settled: () => boolean): Promise<boolean> {
    const end = performance.now() + limit
    while (!settled()) {
      if (performance.now() >= end) return false
      await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL_MS))
    }
    return true
  }
}
