/** What signal-exit shows of itself: how many copies of it listen for signals. Version 3, then 4. */
interface Shown {
  readonly count?: unknown
}
const V3 = '__signal_exit_emitter__'
const V4 = Symbol.for('signal-exit emitter')

/**
 * Whether the app decides itself what SIGTERM does: somebody listens for it besides the `own` listeners of the caller.
 *
 * signal-exit, which is below many packages, does not count. It listens only to clean up before the process dies of the signal,
 * and kills it when it finds nobody listening but itself. Its copies count each other in the same way, through a property of
 * `process` and a global symbol; where neither is there, it counts as a listener of the app's.
 */
export function appDecides(own: number): boolean {
  const copies = [Reflect.get(process, V3), Reflect.get(globalThis, V4)].reduce<number>(
    (sum, shown) => sum + countOf(shown),
    0,
  )
  return process.listenerCount('SIGTERM') > own + copies
}

function countOf(shown: unknown): number {
  if (typeof shown !== 'object' || shown === null) return 0
  const { count } = shown as Shown
  return typeof count === 'number' ? count : 0
}
