import { describeError, withoutMaster } from '../errors.ts'
import type { ScaleReply } from '../api/scale.ts'
import type { Shift } from '../api/shift.ts'
import type { ReloadResult } from '../api/status.ts'
import type { ScaleTarget } from '../config/instances.ts'
import type { FromWorker, ToWorker } from '../ipc/messages.ts'
import type { MetricSnapshot } from '../metrics/snapshot.ts'

/** A master that does not answer within this time is stuck, in milliseconds. */
const ANSWER_TIMEOUT_MS = 1000

const GONE = { success: false, log: [describeError(withoutMaster())] }

type Answer = Extract<ToWorker, { type: 'metrics' | 'reloaded' | 'answer' }>

/** Questions to the master that have not been answered. */
export class Questions {
  /** Sends a message to the master. False if there is none. */
  readonly #send: (message: FromWorker) => boolean
  readonly #pending = new Map<number, (answer: Answer | undefined) => void>()
  /** Reloads requested over the API here. */
  readonly #reloads = new Set<Promise<unknown>>()
  #asked = 0
  #collected: readonly MetricSnapshot[] = []

  constructor(send: (message: FromWorker) => boolean) {
    this.#send = send
  }

  answered(answer: Answer): void {
    if (answer.type === 'metrics') this.#collected = answer.snapshots
    this.#pending.get(answer.ask)?.(answer)
  }

  /** The master is gone. */
  unanswered(): void {
    for (const settle of this.#pending.values()) settle(undefined)
  }

  /** Settles when the reloads requested so far have been answered. */
  async reloadsAnswered(): Promise<void> {
    await Promise.all(this.#reloads)
  }

  /** Counters of the broker's other processes. */
  async collect(): Promise<readonly MetricSnapshot[]> {
    // If the master is busy (exec, or stuck), use its last snapshots, so that counters never go backwards.
    await this.#ask((ask) => ({ type: 'collect', ask }), ANSWER_TIMEOUT_MS)
    return this.#collected
  }

  async reload(by: string, wait: boolean): Promise<ReloadResult> {
    const asked = this.#ask((ask) => ({ type: 'reload', ask, by, wait }))
    this.#reloads.add(asked)
    const answer = await asked
    this.#reloads.delete(asked)
    return answer?.type === 'reloaded' ? { success: answer.success, log: answer.log } : GONE
  }

  async shift(service: string, shift: Shift | undefined, by: string): Promise<ReloadResult> {
    const answer = await this.#ask((ask) => ({ type: 'shift', ask, by, service, shift: shift ?? null }))
    return answer?.type === 'answer' ? { success: answer.success, log: answer.log } : GONE
  }

  async scale(service: string, target: ScaleTarget, by: string): Promise<ScaleReply> {
    const answer = await this.#ask((ask) => ({ type: 'scale', ask, by, service, target }))
    return answer?.type === 'answer' ? answer : GONE
  }

  #ask(question: (ask: number) => FromWorker, timeout?: number): Promise<Answer | undefined> {
    const ask = ++this.#asked
    return new Promise((resolve) => {
      const timer = timeout === undefined ? undefined : setTimeout(() => settle(undefined), timeout)
      const settle = (answer: Answer | undefined) => {
        clearTimeout(timer)
        this.#pending.delete(ask)
        resolve(answer)
      }
      this.#pending.set(ask, settle)
      if (!this.#send(question(ask))) settle(undefined)
    })
  }
}
