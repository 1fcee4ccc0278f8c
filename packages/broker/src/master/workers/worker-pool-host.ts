import type { History } from '../../api/history.ts'
import type { Shifts } from '../../api/shift.ts'
import type { Estate } from './estate.ts'
import type { Controls } from '../../ipc/controls.ts'
import type { TicketKeys } from '../../ipc/ticket-keys.ts'
import type { FromWorker, ManagedReport } from '../../ipc/messages.ts'
import type { BrokerError } from '../../errors.ts'
import type { StartedWorker } from './started-worker.ts'
import type { WorkerProcess } from './worker-process.ts'

/** The new worker of a reload serves. */
export interface Replaced {
  /**
   * Call it next: the old worker hands over its held clients, releases its backends and finishes.
   *
   * @param removed names of listeners that the new configuration does not have
   * @param deadline in ms
   */
  readonly finish: (removed: readonly string[], deadline: number) => void
  /** Call it after that: resolves when every backend of the old worker has moved or exited, or with those that have not. */
  readonly backendsMoved: () => Promise<BrokerError | undefined>
}

/** The pool's view of its master: managed backends, the installed program, and a receiver of events. */
export interface WorkerPoolHost {
  /** The running processes of services with a `command`. */
  managed(): readonly ManagedReport[]
  /** Orders of operators that apply. */
  controls(): Controls
  /**
   * A process for the next worker, after this number of failed starts in a row. The caller owns it.
   *
   * @throws {BrokerError} BATON_ERR_PROGRAM_GONE, BATON_ERR_WORKER_FAILED
   */
  startWorker(failures: number): StartedWorker
  /** A message, after the worker has noted what it reports about itself. */
  message(worker: WorkerProcess, message: FromWorker): void
  /** A worker has ended and was removed from `workers`. @param served the one that backends were registered with: they register with the next one */
  ended(served: boolean): void
  /** The managed backends, for the next master if this one is killed. Undefined if the serving worker is not to outlive this process. */
  estate(): Pick<Estate, 'fleet' | 'lifeline' | 'controls' | 'shifts' | 'tickets'> | undefined
  /** The shifts in force. */
  shifts(): Shifts
  /** The last 15 minutes of each service, as workers have reported them. */
  history(): History
  /** Keys for TLS session tickets. */
  tickets(): TicketKeys
  /** The sockets or the configuration may have changed: called after each change, and without one. */
  changed(): void
  /** This process is awake, as it is several times per second. */
  awake(): void
  /** A dead worker cannot be replaced, because the files of this program were removed. */
  programGone(): void
}
