import { setImmediate } from 'node:timers/promises'

/**
 * `make`, for callers that may be many: it runs once at a time. Calls that come in one turn of the event loop, or while it runs, share the
 * next run, which begins after all of them: none gets what was made before it asked.
 */
export function oneAtATime<T>(make: () => Promise<T>): () => Promise<T> {
  let running: Promise<unknown> = Promise.resolve()
  let next: Promise<T> | undefined
  const begin = async () => {
    await running
    await setImmediate()
    next = undefined
    const made = make()
    running = made.catch(() => {})
    return made
  }
  return () => (next ??= begin())
}
