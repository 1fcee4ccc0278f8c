import { NO_HISTORY, restartAfter, type RestartHistory } from '../../supervise/backoff.ts'

/** What goes on in one place of a service, such as `web.1`. */
export type InstancePhase =
  | { readonly kind: 'idle' }
  | { readonly kind: 'running'; readonly id: string }
  /** Until the next start: CLOCK_MONOTONIC, milliseconds. */
  | { readonly kind: 'waiting'; readonly until: number }
  /** Given up: nothing is started here any more. */
  | { readonly kind: 'ended' }

export interface InstanceState {
  readonly phase: InstancePhase
  /** How often it was started again. */
  readonly restarts: number
  readonly history: RestartHistory
}

export const NEW_INSTANCE: InstanceState = { phase: { kind: 'idle' }, restarts: 0, history: NO_HISTORY }

export type InstanceEvent =
  /** Time to start; `id` is the new process's. */
  | { readonly kind: 'start'; readonly id: string }
  | { readonly kind: 'exited'; readonly id: string; readonly now: number; readonly lived: number }
  /** A process that was started beside this one's takes its place. */
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
 * Pure: what `event` makes of an instance.
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
  // Another version: what the former one did says nothing about it.
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
