import type { Logger } from 'pino'
import type { OutputKeeper } from '../../log/kept/output-keeper.ts'
import type { FleetOs } from './os.ts'

/** The surroundings of a fleet, given by its master and shared by all parts of the fleet. */
export interface FleetContext {
  readonly logger: Logger
  readonly os: FleetOs
  /** Keeps the output of all processes. Absent: it is only logged. */
  readonly output?: Pick<OutputKeeper, 'write'> | undefined
  /** Drain the backends of processes that are to exit. A worker that has drained a backend no longer reports it. `deadline` in ms. */
  readonly workers: { drain(service: string, backend: string, deadline: number): void }
  /** Path of the control socket: BATON_SOCKET of every process. */
  readonly socket: string
  /** The master's environment. Processes inherit it without the variables that are meant for the master. */
  readonly env: NodeJS.ProcessEnv
  /** `Lifeline.environment`: variables by which the processes recognize this master. */
  readonly master: NodeJS.ProcessEnv
  /**
   * Whether a process of the service can register at the moment, and is expected to. A process that has not registered after 10 s of such
   * time is logged as a warning. Absent: no warnings.
   */
  readonly registrable?: ((service: string) => boolean) | undefined
  /** `statuses` may have changed. Called often, also from within calls that change something. */
  changed?(): void
}
