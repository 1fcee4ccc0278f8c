import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

/** The first port that the kernel gives away by itself, as the source of a connection or for `listen(0)`. */
const FIRST_OF_THE_KERNEL = Number(
  /^\d+/.exec(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'))?.[0],
)
const LEAST = 10_000
const given = new Set<number>()

/**
 * A port on which nobody listens, for who has to name one before it listens. The kernel gives it to nobody meanwhile: one that
 * `listen(0)` had chosen, and that was closed again, could be the source of anybody's connection a moment later.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = LEAST + Math.floor(Math.random() * (FIRST_OF_THE_KERNEL - LEAST))
    if (given.has(port) || !(await isFree(port))) continue
    given.add(port)
    return port
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer().listen(port)
  try {
    await once(server, 'listening')
  } catch {
    return false
  }
  server.close()
  await once(server, 'close')
  return true
}
