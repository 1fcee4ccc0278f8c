import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'

/** The first of the kernel's ephemeral ports, used as source ports and for `listen(0)`. */
const FIRST_EPHEMERAL = Number(
  /^\d+/.exec(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'))?.[0],
)
const FIRST_PORT = 10_000
const given = new Set<number>()

/**
 * A free port, for tests that must name one before listening. It is outside the kernel's ephemeral range: a port that `listen(0)` had
 * chosen, and that was closed again, could become the source port of any connection a moment later.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (FIRST_EPHEMERAL - FIRST_PORT))
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
