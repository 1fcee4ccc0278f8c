import type { GivenBackReason } from '@baton/backend-sdk/protocol'

/** Hand-backs of one backend, by what the broker did with them. */
export interface HandBackCounts {
  /** Taken by the broker. */
  readonly handedBack: number
  /** The backend goes on with them. */
  readonly givenBack: number
}

/** Counts the hand-backs of one backend, and those of its drain. */
export class HandBackTally {
  #handedBack = 0
  #givenBack = 0
  /** Counts at the beginning of the drain; undefined before it, and once it was reported. */
  #before: HandBackCounts | undefined
  #reported = false

  get counts(): HandBackCounts {
    return { handedBack: this.#handedBack, givenBack: this.#givenBack }
  }

  taken(times: number): void {
    this.#handedBack += times
  }

  gaveBack(entries: readonly { readonly reason: GivenBackReason }[]): void {
    this.#givenBack += entries.length
  }

  drainBegins(): void {
    if (!this.#reported) this.#before ??= this.counts
  }

  /** The counts of the drain, once; undefined if there is nothing to report. */
  drainEnds(): HandBackCounts | undefined {
    const before = this.#before
    if (before === undefined) return undefined
    this.#before = undefined
    this.#reported = true
    const handedBack = this.#handedBack - before.handedBack
    const givenBack = this.#givenBack - before.givenBack
    return handedBack + givenBack === 0 ? undefined : { handedBack, givenBack }
  }
}
