import type { EventEmitter } from 'node:events'

/** An exception of the app's code, where something else must still be done: it is thrown in a step of its own. */
export function throwLater(error: unknown): void {
  process.nextTick(() => {
    throw error
  })
}

/**
 * Runs `action`; an exception in a listener of `emitter` does not interrupt it. It is thrown later, and the listeners behind it are
 * skipped, as ever.
 */
export function uninterrupted<T>(emitter: EventEmitter, action: () => T): T {
  const own = Object.getOwnPropertyDescriptor(emitter, 'emit')
  if (own?.configurable === false) return action()
  const emit = emitter.emit.bind(emitter) as (...args: unknown[]) => boolean
  const value = (...args: unknown[]): unknown => {
    try {
      return emit(...args)
    } catch (error) {
      throwLater(error)
      return true
    }
  }
  Object.defineProperty(emitter, 'emit', { value, configurable: true, writable: true })
  try {
    return action()
  } finally {
    if (own === undefined) Reflect.deleteProperty(emitter, 'emit')
    else Object.defineProperty(emitter, 'emit', own)
  }
}
