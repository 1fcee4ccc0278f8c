/** How long a process must have been ready, in ms, for its memory to have grown: one that is above the limit before would be so again. */
export const EARLY_MS = 3000

/** Time without another replacement of the service because of memory, in ms. */
export const MIN_PAUSE_MS = 5000

/** Time until another attempt at the same instance when the last one was of no use, in ms; it doubles. */
const FIRST_PAUSE_MS = 60_000
const MAX_PAUSE_MS = 3_600_000

/** Observations of the process of one instance. Times are CLOCK_MONOTONIC in ms. */
export interface Observed {
  readonly id: string
  /** Undefined: it has not been seen ready. */
  readonly readyAt: number | undefined
  /** It was seen above the limit for the first time. */
  readonly aboveAt: number | undefined
}

/** Attempts at one instance that were of no use: the next process is above the limit at once, or does not become ready. */
export interface Setbacks {
  readonly count: number
  /** No attempt before. */
  readonly until: number
}

export const NO_SETBACKS: Setbacks = { count: 0, until: 0 }

/** Applies one look at the process. Pure. @param readySince undefined: it is not ready */
export function look(
  before: Observed | undefined,
  { id, readySince, above, now }: { id: string; readySince: number | undefined; above: boolean; now: number },
): Observed {
  const same = before?.id === id ? before : { id, readyAt: undefined, aboveAt: undefined }
  return {
    id,
    readyAt: same.readyAt ?? readySince,
    aboveAt: same.aboveAt ?? (readySince !== undefined && above ? now : undefined),
  }
}

/** For people, such as `312 MiB`. */
export function formatSize(bytes: number): string {
  return `${Math.round(bytes / 1024 ** 2)} MiB`
}

/** Whether it was above the limit from the start. */
export function isEarly({ readyAt, aboveAt }: Observed): boolean {
  return readyAt !== undefined && aboveAt !== undefined && aboveAt - readyAt < EARLY_MS
}

export function setBack({ count }: Setbacks, now: number): Setbacks {
  return { count: count + 1, until: now + Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** count) }
}
