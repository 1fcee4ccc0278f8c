import { SOON } from './limits.ts'

/** States of the kernel and of other processes come without an event: looks again, at short intervals, until `holds`. */
export async function eventually(
  holds: () => boolean | Promise<boolean>,
  what: string | (() => string),
  timeout = SOON,
): Promise<void> {
  const end = performance.now() + timeout
  while (!(await holds())) {
    if (performance.now() > end) {
      throw new Error(`not within ${timeout} ms: ${typeof what === 'string' ? what : what()}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
