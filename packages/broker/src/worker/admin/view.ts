import type { EventFeed } from '../events/event-feed.ts'
import type { History } from '../../api/history.ts'
import type { Change } from '../../api/events.ts'
import type { ScaleReply } from '../../api/scale.ts'
import type { ScaleTarget } from '../../config/instances.ts'
import type { Shift } from '../../api/shift.ts'
import type { DrainResult, ReloadResult, Status } from '../../api/status.ts'
import type { FlightRecords } from '../../api/flight-record.ts'

/** The admin server's only view of the worker. */
export interface WorkerView {
  /** A snapshot; the caller may keep it. */
  status(): Status
  /** Another worker has this one's backends. */
  readonly isSucceeded: boolean
  /**
   * Starts to drain every backend of a service; resolves when that has started, not when it is done. Default deadline:
   * `drainDeadline` of the configuration.
   */
  drainService(service: string, deadlineMs: number | undefined): Promise<DrainResult>
  /** Like `drainService`, for one backend, named by its ULID. */
  drainBackend(service: string, id: string, deadlineMs: number | undefined): Promise<DrainResult>
  /**
   * Reloads the whole broker; resolves when that is done. Undefined without a master.
   *
   * @param by the requester, for the log
   * @param wait whether to wait for another operation to end; otherwise the reload is refused
   */
  reload?(by: string, wait: boolean): Promise<ReloadResult>
  /** Holds new connections. @param milliseconds undefined: until `resume` */
  pause(service: string, milliseconds: number | undefined): void
  resume(service: string): void
  /** Answers new connections with a page; null: no longer. */
  maintain(service: string, page: { readonly page: string; readonly type: string } | null): void
  /** Begins a shift of a service, or, if it is undefined, ends it. Undefined without a master. */
  shift?(service: string, shift: Shift | undefined, by: string): Promise<ReloadResult>
  /** Changes the number of instances of a service; resolves when that is done. Undefined without a master. */
  scale?(service: string, target: ScaleTarget, by: string): Promise<ScaleReply>
  /** Logs an operator's request that has been started, and announces it to the event streams. */
  asked(change: Change & { readonly by: string }): void
  /** The flight recorder; undefined when it is off. */
  readonly connections: FlightRecords | undefined
  readonly events: EventFeed
  /** The last 15 minutes of each service. */
  history(): History
  /** Folder of the kept output of managed backends. */
  readonly outputFolder: string
  metricsText(): Promise<string>
  readonly metricsContentType: string
}
