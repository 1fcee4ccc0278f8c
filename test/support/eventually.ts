import { SOON } from './limits.ts'

/** Polls at short intervals until `holds`: for states of the kernel and of other processes, which have no event. */
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
