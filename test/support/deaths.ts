import { readdirSync } from 'node:fs'
import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import { eventually } from './eventually.ts'
import { logged, onlyWorker, samples } from './operator.ts'
import { signal } from './signal.ts'

// SIGKILL of workers, and the counts after it.

/** Open descriptors of the master, which has a copy of each connection that waits. */
export function masterDescriptors({ program }: Broker): number {
  return readdirSync(`/proc/${String(program.child.pid)}/fd`).length
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
