/**
 * What is thought of a worker:
 *
 *     answers -- no answer --> silent -- 60 % of the timeout --> suspect -- all of it --> hung
 *     silent, suspect, hung -- an answer --> answers
 */
export type Verdict = 'answers' | 'silent' | 'suspect' | 'hung'

/** Share of the timeout after which a successor is started, so that it is ready when the timeout is over. */
const SUSPECT = 0.6

/** A worker that gets no processor is not blamed for its silence, but for this many times the timeout at most. */
const STARVED = 5

export interface Tick {
  /** Milliseconds since the tick before this, in which the master itself ran. */
  readonly elapsed: number
  /** Whether the worker has said anything since then. */
  readonly heard: boolean
  /** Whether the machine had no processor for the worker since then. */
  readonly starved: boolean
}

/** Judges one worker by whether it answers. Pure: has no clock of its own. */
export class SilenceTimer {
  /** Milliseconds. */
  #silent = 0
  #starved = 0

  get silent(): number {
    return this.#silent
  }

  /** @param timeout in milliseconds */
  tick({ elapsed, heard, starved }: Tick, timeout: number): Verdict {
    if (heard) {
      this.#silent = 0
      this.#starved = 0
      return 'answers'
    }
    if (starved) this.#starved += elapsed
    if (!starved || this.#starved > STARVED * timeout) this.#silent += elapsed
    if (this.#silent >= timeout) return 'hung'
    return this.#silent >= SUSPECT * timeout ? 'suspect' : 'silent'
  }
}
