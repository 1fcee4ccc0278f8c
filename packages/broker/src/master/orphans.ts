import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { NativeError, reap } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { isOwnChild } from '../supervise/child.ts'
import { factsOf, type ProcessFacts } from '../supervise/proc.ts'

/** Time between two looks, in ms: Node has reaped its own children by then. */
const LOOK_INTERVAL_MS = 1000

/** How often to look while they end, in ms. */
const END_INTERVAL_MS = 50

/**
 * Processes that this one has not started, but is the parent of: as process 1 of a container it inherits every process whose parent has ended, and the kernel
 * keeps those that end until they are reaped. Nothing happens in any other process.
 *
 * A child of Node's must be reaped by Node, which would otherwise never learn of its end. So only processes that no part of this program has started
 * are reaped here, and only at a second look: until then, one that has just been started may not be known yet.
 */
export class Orphans {
  readonly #logger: Logger
  readonly #isInit: boolean
  /** Those that had ended at the last look. */
  #ended = new Set<number>()
  #timer: NodeJS.Timeout | undefined
  readonly #onChild = () => this.#lookSoon()

  constructor(logger: Logger, isInit = process.pid === 1) {
    this.#logger = logger
    this.#isInit = isInit
  }

  start(): void {
    if (!this.#isInit) return
    process.on('SIGCHLD', this.#onChild)
    this.#lookSoon()
  }

  /**
   * Ends those that still run, because the kernel kills them when this process exits.
   *
   * @param limit in ms
   */
  async end(limit: number): Promise<void> {
    if (!this.#isInit) return
    const found = running()
    if (found.length === 0) return
    this.#logger.info(
      { processes: found.map(({ pid, name }) => ({ pid, name })) },
      'ending processes that the backends have left',
    )
    for (const { pid } of found) terminate(pid)
    const deadline = performance.now() + limit
    while (running().length > 0 && performance.now() < deadline) await sleep(END_INTERVAL_MS)
  }

  close(): void {
    process.off('SIGCHLD', this.#onChild)
    clearTimeout(this.#timer)
  }

  #lookSoon(): void {
    // After a round of the loop's events, in which Node reaps its own.
    this.#timer ??= setTimeout(() => setImmediate(() => this.#look()), LOOK_INTERVAL_MS).unref()
  }

  #look(): void {
    this.#timer = undefined
    const ended = orphans().filter(({ state }) => state === 'Z')
    for (const { pid } of ended) if (this.#ended.delete(pid)) reapQuietly(pid)
    this.#ended = new Set(orphans().flatMap(({ pid, state }) => (state === 'Z' ? [pid] : [])))
    if (this.#ended.size > 0) this.#lookSoon()
  }
}

function running(): ProcessFacts[] {
  return orphans().filter(({ state }) => state !== 'Z')
}

function orphans(): ProcessFacts[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => factsOf(Number(name)) ?? [])
    .filter(({ pid, parent }) => parent === process.pid && !isOwnChild(pid))
}

function reapQuietly(pid: number): void {
  try {
    reap(pid)
  } catch (error) {
    // ECHILD: it was reaped.
    if (!(error instanceof NativeError)) throw error
  }
}

function terminate(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM')
  } catch {
    // ESRCH: it has just ended.
  }
}
