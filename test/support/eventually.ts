import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** States of the kernel and of other processes come without an event: looks again, at short intervals, until `holds`. */
export async function eventually(
  holds: () => boolean | Promise<boolean>,
  what: string | (() => string),
  timeout = 10_000,
): Promise<void> {
  const end = performance.now() + timeout
  while (!(await holds())) {
    if (performance.now() > end) {
      throw new Error(`not within ${timeout} ms: ${typeof what === 'string' ? what : what()}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** How many descriptors a process has open, less TCP connections on `exceptPort` (those of whoever looks). */
export function descriptors(pid: number, exceptPort?: number): number {
  const ignored = exceptPort === undefined ? new Set<string>() : socketsOn(exceptPort)
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return !ignored.has(readlinkSync(`/proc/${pid}/fd/${fd}`))
    } catch (error) {
      // Closed between the two calls.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
  }).length
}

/** Connections, not the listening socket (state 0A in proc_net_tcp), as /proc/PID/fd shows them. */
function socketsOn(port: number): Set<string> {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const rows = readFileSync('/proc/net/tcp', 'utf8').trim().split('\n').slice(1)
  return new Set(
    rows
      .map((row) => row.trim().split(/\s+/))
      .filter(([, local, , state]) => local?.endsWith(wanted) === true && state !== '0A')
      .map((columns) => `socket:[${columns[9] ?? ''}]`),
  )
}
