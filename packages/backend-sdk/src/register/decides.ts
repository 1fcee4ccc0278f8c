/** The state that signal-exit exposes: how many of its copies listen for signals. Keys of version 3 and version 4. */
interface SignalExit {
  readonly count?: unknown
}
const V3 = '__signal_exit_emitter__'
const V4 = Symbol.for('signal-exit emitter')

/**
 * Whether the app handles SIGTERM itself: it has listeners besides the caller's `own` ones.
 *
 * Listeners of signal-exit, a dependency of many packages, do not count: they only clean up before the signal kills the process, and
 * kill it if there is no other listener. Copies of signal-exit count each other as this function does, through a property of
 * `process` (version 3) and a global symbol (version 4). Without either, its listener counts as one of the app.
 */
export function appDecides(own: number): boolean {
  const copies = [Reflect.get(process, V3), Reflect.get(globalThis, V4)].reduce<number>(
    (sum, state) => sum + countOf(state),
    0,
  )
  return process.listenerCount('SIGTERM') > own + copies
}

function countOf(state: unknown): number {
  if (typeof state !== 'object' || state === null) return 0
  const { count } = state as SignalExit
  return typeof count === 'number' ? count : 0
}
