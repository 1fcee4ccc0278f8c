import type { EventFeed } from '../events/event-feed.ts'
import type { Change } from '../../api/events.ts'
import type { DrainResult, ReloadResult, Status } from '../../api/status.ts'
import type { FlightRecords } from '../../api/flight-record.ts'

/** What the admin server asks of the worker, and all that it knows of it. */
export interface WorkerView {
  /** A snapshot; the caller may keep it. */
  status(): Status
  /**
   * Begins to drain every backend of a service and answers when it has begun, not when it is done. Without a
   * deadline the configured `drainDeadline` holds.
   */
  drainService(service: string, deadlineMs: number | undefined): Promise<DrainResult>
  /** The same for one backend, named by its ULID. */
  drainBackend(service: string, id: string, deadlineMs: number | undefined): Promise<DrainResult>
  /**
   * Reloads the whole broker and answers when that is done; undefined without a master. While something else goes on it waits, or
   * is refused.
   */
  reload?(by: string, wait: boolean): Promise<ReloadResult>
  /** An operator has asked for something, and it has begun: for the log, and for who listens to `events`. */
  asked(change: Change & { readonly by: string }): void
  /** The flight recorder; undefined when it is off. */
  readonly connections: FlightRecords | undefined
  readonly events: EventFeed
  metricsText(): Promise<string>
  readonly metricsContentType: string
}
