import type { NackReason } from '@baton/backend-sdk/protocol'
import { consequenceOf } from '../connection/failure.ts'

/** Milliseconds for which a schema that its backend has refused is not offered to it. Doubles with each refusal, up to the maximum. */
const FIRST_PAUSE_MS = 250
const MAX_PAUSE_MS = 4000

interface Refusal {
  readonly until: number
  readonly pause: number
  /** `NotResumable`: whatever RESUMES said, it does not resume this schema now. Otherwise it has no room. */
  readonly denied: boolean
}

/**
 * The formats of state that one backend can go on with: what it said last (RESUMES), less what it refuses all the same. A state may have
 * 256 KiB, so it is not sent again and again to a backend that refuses it. No I/O; the clock is an argument.
 */
export class ResumableSchemas {
  #named: ReadonlySet<string> = new Set()
  readonly #refusals = new Map<string, Refusal>()

  /** RESUMES. @returns whether it says something new: then earlier refusals are forgotten */
  say(schemas: readonly string[]): boolean {
    const named = new Set(schemas)
    if (named.size === this.#named.size && [...named].every((schema) => this.#named.has(schema))) return false
    this.#named = named
    this.#refusals.clear()
    return true
  }

  /** Whether it can go on with such connections, if not at this moment. */
  resumes(schema: string, now: number): boolean {
    return this.#named.has(schema) && this.#refusal(schema, now)?.denied !== true
  }

  /** Whether it may be offered one now. */
  mayBeOffered(schema: string, now: number): boolean {
    return this.#named.has(schema) && this.#refusal(schema, now) === undefined
  }

  /** NACK. A refusal that shows a fault of the backend counts elsewhere (`FailureLimit`). */
  refused(schema: string, reason: NackReason, now: number): void {
    if (!this.#named.has(schema) || consequenceOf(reason).countsAgainstBackend) return
    const last = this.#refusals.get(schema)
    // Several answers to offers made together are one refusal.
    if (last !== undefined && now < last.until) return
    const pause = last === undefined ? FIRST_PAUSE_MS : Math.min(2 * last.pause, MAX_PAUSE_MS)
    this.#refusals.set(schema, { until: now + pause, pause, denied: reason === 'NotResumable' })
  }

  /** ACK. A pause that runs is not cut short: it may have taken one, and refused others at the same time. */
  took(schema: string, now: number): void {
    if (this.#refusal(schema, now) === undefined) this.#refusals.delete(schema)
  }

  #refusal(schema: string, now: number): Refusal | undefined {
    const refusal = this.#refusals.get(schema)
    return refusal !== undefined && now < refusal.until ? refusal : undefined
  }
}
