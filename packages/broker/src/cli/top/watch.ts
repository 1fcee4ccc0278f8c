import { setTimeout as pause } from 'node:timers/promises'
import type { BrokerPlace } from '../../config/file.ts'
import type { ServiceRates } from '../../api/events.ts'
import { CommandError } from '../../exit-codes.ts'
import { RefusedError } from '../admin-client.ts'
import { brokerEvents } from '../event-stream.ts'
import { askStatus, checkedStatus } from '../answers.ts'
import { type Snapshot, Snapshots } from './snapshot.ts'

/** The interval of the broker's own events. */
const PERIOD_MS = 1000
/** Polls of a broker without events before it is asked for them again: it may have been upgraded, or have room again. */
const MAX_POLLS = 30

export type Observation =
  | { readonly kind: 'snapshot'; readonly snapshot: Snapshot }
  /** The broker cannot be reached, or refuses; `watch` retries. */
  | { readonly kind: 'lost'; readonly message: string; readonly code: string | undefined }

/**
 * Yields a snapshot of a broker once a second, from its events, or by polling if it has none. Ends only with `signal`.
 *
 * @param configure reads the configuration; called again after each interruption, since address and token may have changed
 */
export async function* watch(
  configure: () => Promise<BrokerPlace>,
  signal: AbortSignal,
): AsyncGenerator<Observation> {
  const snapshots = new Snapshots()
  let streams = true
  while (!signal.aborted) {
    const began = performance.now()
    try {
      const observed = streams
        ? streamed(await configure(), snapshots, signal)
        : polled(await configure(), snapshots, signal)
      for await (const snapshot of observed) yield { kind: 'snapshot', snapshot }
      // The stream has ended, as at every reload: the next worker is ready.
      streams = true
    } catch (error) {
      if (streams && isNoStream(error)) {
        streams = false
        continue
      }
      streams = true
      if (signal.aborted) return
      yield {
        kind: 'lost',
        message: messageOf(error),
        code: error instanceof CommandError ? error.code : undefined,
      }
    }
    // Not immediately, in case it ends again and again.
    await pause(Math.max(0, PERIOD_MS - (performance.now() - began)), undefined, { signal }).catch(() => {})
  }
}

async function* streamed(
  config: BrokerPlace,
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

async function* polled(
  config: BrokerPlace,
  snapshots: Snapshots,
  signal: AbortSignal,
): AsyncGenerator<Snapshot> {
  for (let poll = 0; poll < MAX_POLLS && !signal.aborted; poll++) {
    yield snapshots.next(Date.now(), await askStatus(config, signal), undefined)
    await pause(PERIOD_MS, undefined, { signal }).catch(() => {})
  }
}

/** The broker has no such route, or no room for a stream. A wrong token is another matter. */
function isNoStream(error: unknown): boolean {
  return error instanceof RefusedError && error.code !== undefined && ![401, 403].includes(error.status)
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
