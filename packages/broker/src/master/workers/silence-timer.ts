/**
 * The state of a worker:
 *
 *     answers -- no answer --> silent -- 60 % of the timeout --> suspect -- all of it --> hung
 *     silent, suspect, hung -- an answer --> answers
 */
export type Verdict = 'answers' | 'silent' | 'suspect' | 'hung'

/** Share of the timeout after which a successor is started, so that it is ready at the timeout. */
const SUSPECT = 0.6

/** Silence of a worker that gets no CPU does not count, for at most this many times the timeout. */
const STARVED = 5

export interface Tick {
  /** Time since the last tick in which the master itself ran, in ms. */
  readonly elapsed: number
  /** Whether the worker has sent anything since then. */
  readonly answered: boolean
  /** Whether the worker got no CPU since then. */
  readonly starved: boolean
}

/** Tracks whether one worker answers. Has no clock of its own. */
export class SilenceTimer {
  /** In ms. */
  #silent = 0
  #starved = 0

  get silent(): number {
    return this.#silent
  }

  /** @param timeout in ms */
  tick({ elapsed, answered, starved }: Tick, timeout: number): Verdict {
    if (answered) {
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
