import { setImmediate } from 'node:timers/promises'

/**
 * Wraps `make` so that it runs once at a time. Calls made in one turn of the event loop, or while it is running, share the next run,
 * which starts after all of them: no caller gets a result that was made before its call.
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
