/** How many starts in a row may fail. */
export const MAX_FAILED_STARTS = 5

/** What is known of the starts of an app under `baton run`. Plain data: it outlives the program that counts. */
export interface StartHistory {
  /** Failed starts of each instance (`app.1`) since the app has last served. */
  readonly failed: Readonly<Record<string, number>>
  /** It has served once, so that what fails later is a change of it. */
  readonly served: boolean
}

export const NO_STARTS: StartHistory = { failed: {}, served: false }

export type StartEvent =
  /** A process has been registered for `minHealthy`. */
  | { readonly kind: 'served' }
  /** A process has ended before it had. */
  | { readonly kind: 'failed'; readonly instance: string }

/** Pure. One instance that serves clears the row of all: the program is all right. */
export function countStart(history: StartHistory, event: StartEvent): StartHistory {
  if (event.kind === 'served') return { failed: {}, served: true }
  const { instance } = event
  return { ...history, failed: { ...history.failed, [instance]: (history.failed[instance] ?? 0) + 1 } }
}

/** Whether each of the instances has failed so often that there is nothing left to wait for. */
export function hasFailedTooOften({ failed }: StartHistory, instances: readonly string[]): boolean {
  return instances.length > 0 && instances.every((name) => (failed[name] ?? 0) >= MAX_FAILED_STARTS)
}
