import { setTimeout as pause } from 'node:timers/promises'
import type { Config } from '../../config/config.ts'
import type { ServiceRates } from '../../api/events.ts'
import { RefusedError } from '../admin-client.ts'
import { brokerEvents } from '../event-stream.ts'
import { askStatus, checkedStatus } from '../answers.ts'
import { type Snapshot, Snapshots } from './snapshot.ts'

/** As often as the broker's own events come. */
const PERIOD_MS = 1000
/** A broker that gives no events is asked for them again after so many looks: it may have been upgraded, or have room again. */
const LOOKS = 30

export type Observation =
  | { readonly kind: 'snapshot'; readonly snapshot: Snapshot }
  /** Nobody answers, or it is refused; it is tried again. */
  | { readonly kind: 'lost'; readonly message: string }

/**
 * Looks at a broker once a second, by its events, or by asking when it has none to give. Ends only with `signal`.
 *
 * @param configure reads the configuration; asked again after each break, since the address and the token may have changed
 */
export async function* watch(configure: () => Config, signal: AbortSignal): AsyncGenerator<Observation> {
  const snapshots = new Snapshots()
  let streams = true
  while (!signal.aborted) {
    const began = performance.now()
    try {
      const looks = streams
        ? streamed(configure(), snapshots, signal)
        : polled(configure(), snapshots, signal)
      for await (const snapshot of looks) yield { kind: 'snapshot', snapshot }
      // The stream has ended, as it does at a reload: its successor is there already.
      streams = true
    } catch (error) {
      if (streams && isNoStream(error)) {
        streams = false
        continue
      }
      streams = true
      if (signal.aborted) return
      yield { kind: 'lost', message: messageOf(error) }
    }
    // Not in a hurry when it ends again and again.
    await pause(Math.max(0, PERIOD_MS - (performance.now() - began)), undefined, { signal }).catch(() => {})
  }
}

async function* streamed(
  config: Config,
  snapshots: Snapshots,
  signal: AbortSignal,
): AsyncGenerator<Snapshot> {
  for await (const { event, data } of brokerEvents(config, signal)) {
    if (event !== 'status') continue
    const { at, status, services } = Object(data)
    const rates = (services ?? {}) as Record<string, ServiceRates>
    yield snapshots.next(Date.parse(String(at)), checkedStatus(status), rates)
  }
}

async function* polled(config: Config, snapshots: Snapshots, signal: AbortSignal): AsyncGenerator<Snapshot> {
  for (let look = 0; look < LOOKS && !signal.aborted; look++) {
    yield snapshots.next(Date.now(), await askStatus(config, signal), undefined)
    await pause(PERIOD_MS, undefined, { signal }).catch(() => {})
  }
}

/** It answers, and has no such route, or no room; the token is another matter. */
function isNoStream(error: unknown): boolean {
  return error instanceof RefusedError && error.code !== undefined && ![401, 403].includes(error.status)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
