import { NO_HISTORY, restartAfter, type RestartHistory } from '../../supervise/backoff.ts'

/** The phase of an instance, such as `web.1`. */
export type InstancePhase =
  | { readonly kind: 'idle' }
  | { readonly kind: 'running'; readonly id: string }
  /** Time of the next start: CLOCK_MONOTONIC, in ms. */
  | { readonly kind: 'waiting'; readonly until: number }
  /** No process is started again. */
  | { readonly kind: 'ended' }

export interface InstanceState {
  readonly phase: InstancePhase
  /** Number of restarts. */
  readonly restarts: number
  readonly history: RestartHistory
}

export const NEW_INSTANCE: InstanceState = { phase: { kind: 'idle' }, restarts: 0, history: NO_HISTORY }

export type InstanceEvent =
  /** It is time to start a process, with this `id`. */
  | { readonly kind: 'start'; readonly id: string }
  | { readonly kind: 'exited'; readonly id: string; readonly now: number; readonly lived: number }
  /** A successor becomes the instance's process. */
  | { readonly kind: 'replaced'; readonly id: string }
  | { readonly kind: 'stop' }

export type InstanceEffect =
  | { readonly kind: 'spawn'; readonly id: string }
  | { readonly kind: 'retire'; readonly id: string }
  | { readonly kind: 'backoff'; readonly delay: number; readonly crashed: boolean }

export interface InstanceStep {
  readonly state: InstanceState
  readonly effects: readonly InstanceEffect[]
}

/**
 * The transition for `event`. Pure.
 *
 *     idle --start--> running --exited--> waiting --start--> running
 *     idle, running, waiting --replaced--> running (the former process retires)
 *     any --stop--> ended (its process retires)
 */
export function step(state: InstanceState, event: InstanceEvent): InstanceStep {
  const { phase } = state
  if (phase.kind === 'ended') return { state, effects: [] }
  if (event.kind === 'start') return start(state, event.id)
  if (event.kind === 'exited') return exited(state, event)
  // Another version: the history of the former one does not apply to it.
  if (event.kind === 'replaced') {
    return { state: { ...NEW_INSTANCE, phase: { kind: 'running', id: event.id } }, effects: retired(phase) }
  }
  return { state: { ...state, phase: { kind: 'ended' } }, effects: retired(phase) }
}

function start(state: InstanceState, id: string): InstanceStep {
  if (state.phase.kind === 'running') return { state, effects: [] }
  const restarts = state.restarts + (state.phase.kind === 'waiting' ? 1 : 0)
  return { state: { ...state, restarts, phase: { kind: 'running', id } }, effects: [{ kind: 'spawn', id }] }
}

function exited(state: InstanceState, event: InstanceEvent & { kind: 'exited' }): InstanceStep {
  const { phase } = state
  if (phase.kind !== 'running' || phase.id !== event.id) return { state, effects: [] }
  const { history, delay } = restartAfter(state.history, event)
  return {
    state: { ...state, history, phase: { kind: 'waiting', until: event.now + delay } },
    effects: [{ kind: 'backoff', delay, crashed: history.crashed }],
  }
}

function retired(phase: InstancePhase): InstanceEffect[] {
  return phase.kind === 'running' ? [{ kind: 'retire', id: phase.id }] : []
}
