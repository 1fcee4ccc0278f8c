/**
 * The life of one process. Times are CLOCK_MONOTONIC, in ms.
 *
 *     running --retire--> draining --drained or due--> terminating --due--> killed
 *     running --retire, and no worker lists it--> terminating
 *     draining --lost--> draining, unobserved: --listed--> draining
 *                                              --due--> terminating
 *     any --exited--> gone
 *     any --kill--> killed
 */
export type ProcessLife =
  | { readonly kind: 'running' }
  /**
   * The workers are draining it; SIGTERM follows at `until` at the latest. `unobserved`: the worker that was draining it is gone, so
   * only its own exit shows that it has finished, unless it registers with another one.
   */
  | { readonly kind: 'draining'; readonly until: number; readonly unobserved?: boolean | undefined }
  /** SIGTERM was sent; SIGKILL follows at `until`. */
  | { readonly kind: 'terminating'; readonly until: number }
  | { readonly kind: 'killed' }
  | { readonly kind: 'gone' }

export type LifeEvent =
  /** `listed`: a worker knows it, and may have given it connections. `deadline` in ms. */
  | { readonly kind: 'retire'; readonly now: number; readonly deadline: number; readonly listed: boolean }
  /** No worker lists it. */
  | { readonly kind: 'drained'; readonly now: number }
  /** The worker that listed it has died or released it. */
  | { readonly kind: 'lost' }
  /** A worker lists it. */
  | { readonly kind: 'listed' }
  /** The time in the state is over. */
  | { readonly kind: 'due'; readonly now: number }
  | { readonly kind: 'kill' }
  | { readonly kind: 'exited' }

export type LifeEffect =
  | { readonly kind: 'drain'; readonly deadline: number }
  | { readonly kind: 'signal'; readonly signal: 'SIGTERM' | 'SIGKILL' }

export interface LifeStep {
  readonly life: ProcessLife
  readonly effects: readonly LifeEffect[]
}

const TERMINATE: LifeEffect = { kind: 'signal', signal: 'SIGTERM' }
const KILL: LifeEffect = { kind: 'signal', signal: 'SIGKILL' }

/**
 * Time between SIGTERM and SIGKILL for a process that has nothing left to do, in ms. A process that was never drained gets the whole
 * deadline, because it may still have connections.
 */
const GRACE_MS = 10_000

/** The transition for `event`. Pure. */
export function live(life: ProcessLife, event: LifeEvent): LifeStep {
  if (life.kind === 'gone') return stay(life)
  if (event.kind === 'exited') return stay({ kind: 'gone' })
  if (event.kind === 'kill')
    return life.kind === 'killed' ? stay(life) : { life: { kind: 'killed' }, effects: [KILL] }
  if (event.kind === 'retire') return retire(life, event)
  if (event.kind === 'due') return due(life, event.now)
  if (life.kind !== 'draining') return stay(life)
  if (event.kind === 'lost') return stay({ ...life, unobserved: true })
  if (event.kind === 'listed') return stay({ kind: 'draining', until: life.until })
  return life.unobserved === true ? stay(life) : terminate(event.now + GRACE_MS)
}

/** A second deadline counts only if it is shorter. */
function retire(life: ProcessLife, event: LifeEvent & { kind: 'retire' }): LifeStep {
  const until = event.now + event.deadline
  if (life.kind === 'running' && !event.listed) return terminate(until)
  if (life.kind === 'draining' && life.unobserved === true && !event.listed)
    return terminate(Math.min(until, life.until))
  if (life.kind === 'running' || (life.kind === 'draining' && until < life.until)) {
    return { life: { kind: 'draining', until }, effects: [{ kind: 'drain', deadline: event.deadline }] }
  }
  if (life.kind === 'terminating') return stay({ kind: 'terminating', until: Math.min(until, life.until) })
  return stay(life)
}

function due(life: ProcessLife, now: number): LifeStep {
  if (life.kind === 'draining' && now >= life.until) return terminate(now + GRACE_MS)
  if (life.kind === 'terminating' && now >= life.until) return { life: { kind: 'killed' }, effects: [KILL] }
  return stay(life)
}

const stay = (life: ProcessLife): LifeStep => ({ life, effects: [] })
const terminate = (until: number): LifeStep => ({
  life: { kind: 'terminating', until },
  effects: [TERMINATE],
})
