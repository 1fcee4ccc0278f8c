import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import type { Client } from './client.ts'
import { eventually } from './eventually.ts'
import { logged, onlyWorker, samples } from './operator.ts'
import { signal } from './signal.ts'

// SIGKILL of workers, and the counts after it.

/** Open descriptors of the master, which has a copy of each connection that waits. */
export function masterDescriptors({ program }: Broker): number {
  return readdirSync(`/proc/${String(program.child.pid)}/fd`).length
}

/** Whether the process has the server's end of the connection between these ports of 127.0.0.1. */
export function hasConnection(pid: number, server: number, client: number): boolean {
  const end = (port: number) => `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const line = readFileSync('/proc/net/tcp', 'utf8')
    .split('\n')
    .find((each) => each.includes(`${end(server)} ${end(client)}`))
  const inode = line?.trim().split(/\s+/)[9] ?? 'none'
  return readdirSync(`/proc/${pid}/fd`).some((fd) => linkOf(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`)
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    // It was closed meanwhile.
    return ''
  }
}

/** Resolves when the master has a copy of each connection. */
export async function copied(
  broker: Broker,
  port: number,
  clients: readonly Client[],
  what = 'the master has a copy of each',
): Promise<void> {
  const { pid } = broker.program
  const areCopied = () => clients.every((client) => hasConnection(pid, port, client.port))
  await eventually(areCopied, what)
}

/** Kills the serving worker. Resolves when the next one accepts. */
export async function killWorker(t: Test, broker: Broker): Promise<void> {
  const pid = await onlyWorker(t, broker)
  const before = logged(broker, 'accepting connections')
  signal(pid, 'SIGKILL')
  await eventually(() => logged(broker, 'accepting connections') > before, 'the next worker accepts')
}

/** Waits until the counts of all workers so far explain all connections (M9): what was lost is counted when nothing moves any more. */
export async function unaccounted(broker: Broker): Promise<{ unaccounted: number; lost: number }> {
  let now = await unaccountedNow(broker)
  const areExplained = async () => (now = await unaccountedNow(broker)).unaccounted === 0
  await eventually(areExplained, () => `each connection is counted once: ${JSON.stringify(now)}`)
  return now
}

async function unaccountedNow(broker: Broker): Promise<{ unaccounted: number; lost: number }> {
  let sum = 0
  let lost = 0
  for (const [series, value] of await samples(broker)) {
    const [name = ''] = series.split('{')
    if (name === 'baton_connections_accepted_total') sum += value
    if (name === 'baton_connections_handed_back_total' && series.includes('"taken"')) sum += value
    if (
      ['baton_connections_total', 'baton_connections_held', 'baton_connections_parked'].includes(name) ||
      name === 'baton_handoffs_in_flight'
    )
      sum -= value
    if (series.includes('outcome="lost"')) lost += value
  }
  return { unaccounted: sum, lost }
}
