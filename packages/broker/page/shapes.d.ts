// What the admin API answers, for the type check of the page: the broker's own types. Not shipped.
import type { Status } from '../src/api/status.ts'
import type { Change as Told, ServiceRates } from '../src/api/events.ts'
import type { FlightRecord } from '../src/api/flight-record.ts'

export type { BackendStatus, ListenerStatus, ServiceStatus, Status } from '../src/worker/admin/view.ts'
export type { FlightRecord, ServiceRates }

/** One event `status`; `services` is null where only the status itself was to be had. */
export interface Sample {
  readonly at: string
  readonly status: Status
  readonly services: Readonly<Record<string, ServiceRates>> | null
}

/** One event `change`. */
export type Change = Told & { readonly at: string }

export interface ConnectionList {
  readonly connections: readonly FlightRecord[]
  readonly recorded: number
  readonly capacity: number
}

/** Where the page has its figures from. */
export type FeedState = 'connecting' | 'live' | 'polling' | 'lost' | 'locked'
