/** Consecutive failed starts after which an instance counts as failing. */
export const MAX_FAILED_STARTS = 5

/** History of the starts of an app under `baton run`. Plain data that crosses exec. */
export interface StartHistory {
  /** Failed starts of each instance (`app.1`) since the app last served. */
  readonly failed: Readonly<Record<string, number>>
  /** The app has served at least once, so a later failure is due to a change. */
  readonly served: boolean
}

export const NO_STARTS: StartHistory = { failed: {}, served: false }

export type StartEvent =
  /** A process has been registered for `minHealthy`. */
  | { readonly kind: 'served' }
  /** A process has ended before that. */
  | { readonly kind: 'failed'; readonly instance: string }

/** Adds an event to the history. Pure. One instance that serves resets the counts of all, because the program works. */
export function countStart(history: StartHistory, event: StartEvent): StartHistory {
  if (event.kind === 'served') return { failed: {}, served: true }
  const { instance } = event
  return { ...history, failed: { ...history.failed, [instance]: (history.failed[instance] ?? 0) + 1 } }
}

/** Whether every instance has failed `MAX_FAILED_STARTS` times. */
export function hasFailedTooOften({ failed }: StartHistory, instances: readonly string[]): boolean {
  return instances.length > 0 && instances.every((name) => (failed[name] ?? 0) >= MAX_FAILED_STARTS)
}
