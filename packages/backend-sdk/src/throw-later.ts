/** An exception of the app's code, where something else must still be done: it is thrown in a step of its own. */
export function throwLater(error: unknown): void {
  process.nextTick(() => {
    throw error
  })
}
