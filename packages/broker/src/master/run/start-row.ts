/** How many starts in a row may fail. */
export const MOST_FAILED_STARTS = 5

/** What is known of the starts of an app under `baton run`. Plain data: it outlives the program that counts. */
export interface StartRow {
  /** Failed starts of each instance (`app.1`) since the app has last served. */
  readonly failed: Readonly<Record<string, number>>
  /** It has served once, so that what fails later is a change of it. */
  readonly served: boolean
}

export const NO_STARTS: StartRow = { failed: {}, served: false }

export type StartEvent =
  /** A process has been registered for `minHealthy`. */
  | { readonly kind: 'served' }
  /** A process has ended before it had. */
  | { readonly kind: 'failed'; readonly instance: string }

/** Pure. One instance that serves clears the row of all: the program is all right. */
export function countStart(row: StartRow, event: StartEvent): StartRow {
  if (event.kind === 'served') return { failed: {}, served: true }
  const { instance } = event
  return { ...row, failed: { ...row.failed, [instance]: (row.failed[instance] ?? 0) + 1 } }
}

/** Whether each of the instances has failed so often that there is nothing left to wait for. */
export function isHopeless({ failed }: StartRow, instances: readonly string[]): boolean {
  return instances.length > 0 && instances.every((name) => (failed[name] ?? 0) >= MOST_FAILED_STARTS)
}
