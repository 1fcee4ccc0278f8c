// Responses of the admin API, as the broker's own types. For type checks of the page; not shipped.
import type { Status } from '../src/api/status.ts'
import type { Change as ApiChange, ServiceRates } from '../src/api/events.ts'
import type { History, HistoryAnswer } from '../src/api/history.ts'
import type { OutputLine } from '../src/log/kept/line.ts'
import type { FlightRecord } from '../src/api/flight-record.ts'

export type { BackendStatus, ListenerStatus, ServiceStatus, Status } from '../src/api/status.ts'
export type { FlightRecord, HistoryAnswer, OutputLine, ServiceRates }

export interface ServiceOutput {
  readonly lines: readonly OutputLine[]
}

export type PastServices = History

/** One `status` event; `services` is null if the status was polled. */
export interface Sample {
  readonly at: string
  readonly status: Status
  readonly services: Readonly<Record<string, ServiceRates>> | null
}

/** One `change` event. */
export type Change = ApiChange & { readonly at: string }

export interface ConnectionList {
  readonly connections: readonly FlightRecord[]
  readonly recorded: number
  readonly capacity: number
}

/** Where the page gets its figures from. */
export type FeedState = 'connecting' | 'live' | 'polling' | 'lost' | 'locked'
