import { closeSync, fstatSync, readSync, writeSync } from 'node:fs'
import { createMemoryFile, type OwnedFd } from '@baton/native-sendmsg'
import type { Controls } from '../../ipc/controls.ts'
import type { History } from '../../api/history.ts'
import type { Shifts } from '../../api/shift.ts'
import type { OutputKeeperState } from '../../log/kept/output-keeper.ts'
import type { BackendReport } from '../../ipc/messages.ts'
import { READABLE_VERSIONS } from '../../ipc/state-version.ts'
import type { FleetState } from '../fleet/state.ts'
import type { LifelineState } from '../../supervise/lifeline.ts'
import type { CountersState } from '../workers/counters.ts'
import type { RunState } from '../run/app-run.ts'
import type { Launcher } from '../run/launchers.ts'
import type { ListeningSocketsState } from '../listening-sockets.ts'
import type { LogState } from '../start-log.ts'
import type { FdStoreState } from '../systemd/fd-store.ts'
import type { ProgramNames } from './installed-program.ts'
import type { TicketRotationState } from '../tickets/ticket-rotation.ts'
import type { FinishingWorker } from '../../ipc/copies.ts'
import type { SurvivorsState } from '../workers/survivors.ts'
import type { StartedWorkerState } from '../workers/started-worker.ts'
import type { WorkerState } from '../workers/worker-process.ts'

/** Environment variable of the next program: descriptor number of the memory file with the state. */
export const STATE_VARIABLE = 'BATON_MASTER_STATE'

/** The source of a request for a reload, which gets the answer. */
export type Requester =
  | { readonly kind: 'session' }
  | { readonly kind: 'worker'; readonly worker: number; readonly ask: number; readonly by: string }
  | { readonly kind: 'signal' }

/** Everything that a master carries over exec. Descriptors keep their numbers. */
export interface MasterState {
  readonly version: number
  /** How often this process has executed a new program. */
  readonly executions: number
  readonly file: string
  /** Absent in the state of an older version. */
  readonly program?: ProgramNames
  /** The active configuration, and the next one. */
  readonly text: string
  readonly candidate: string
  readonly lock: number
  readonly sockets: ListeningSocketsState
  /** The socketpair with the sessions of requesters. */
  readonly pair: readonly [number, number]
  readonly workers: readonly WorkerState[]
  /** Backends known from earlier workers. Absent in the state of an older version. */
  readonly known?: readonly BackendReport[]
  /** Workers of an earlier master, which was killed. Absent in the state of an older version. */
  readonly finishing?: readonly FinishingWorker[]
  /** Clients of dead workers. Absent in the state of an older version. */
  readonly survivors?: SurvivorsState
  /** Absent in the state of an older version. */
  readonly shifts?: Shifts
  /** Keys for TLS session tickets. Absent in the state of an older version. */
  readonly tickets?: TicketRotationState
  /** How many workers were started so far. */
  readonly started: number
  readonly counters: CountersState
  readonly fleet: FleetState
  /** Absent in the state of an older version. */
  readonly lifeline?: LifelineState
  /** Requesters of the current reload, and of the next one. Their sessions are in the pair, in this order. */
  readonly askers: readonly Requester[]
  readonly waiting: readonly Requester[]
  /** When the process was started; ISO 8601. */
  readonly startedAt: string
  readonly run: RunState | null
  /** Processes that launched this one, which stops when they end. Absent in the state of an older version, which has those of `baton run` in `run`. */
  readonly launchers?: readonly Launcher[]
  /** Pid of the worker that a new process has taken over from a master that was killed. It has executed nothing. */
  readonly claimed?: number
  /** Absent in the state of an older version. */
  readonly controls?: Controls
  /** Absent in the state of an older version. */
  readonly log?: LogState
  /** A process for the next worker, which loads its program meanwhile. Absent if there is none, and in the state of an older version. */
  readonly spare?: StartedWorkerState
  /** Output that is to be kept. Absent in the state of an older version. */
  readonly output?: OutputKeeperState
  /** Absent in the state of an older version. */
  readonly history?: History
  /** Names of what the service manager keeps. Absent in the state of an older version. */
  readonly store?: FdStoreState
}

/** Version 1, in which requests did not wait. */
type FirstState = Omit<MasterState, 'askers' | 'waiting'> & { readonly asker: Requester }

/** All descriptors in the state, except the fleet's. */
export function descriptorsOf(state: MasterState): number[] {
  const { lock, pair, sockets, workers, survivors, finishing, lifeline, spare } = state
  return [
    lock,
    ...pair,
    ...(lifeline ?? []),
    sockets.control,
    sockets.operator,
    sockets.admin.fd,
    ...(sockets.agentCheck === undefined ? [] : [sockets.agentCheck.fd]),
    ...sockets.listeners.map(({ fd }) => fd),
    ...[...workers, ...(spare === undefined ? [] : [spare])].flatMap(({ channel, stderr }) =>
      stderr === null ? [channel] : [channel, stderr],
    ),
    ...workers.flatMap(({ copies }) =>
      copies === undefined
        ? []
        : [copies.channel, copies.file, ...(copies.kept?.copies ?? []).map(({ fd }) => fd)],
    ),
    ...(survivors ?? []).map(({ fd }) => fd),
    ...(finishing ?? []).map(({ file }) => file),
  ]
}

/** Writes the state to a memory file. The caller owns the descriptor, and keeps it open over exec. */
export function writeState(state: MasterState): OwnedFd {
  const file = createMemoryFile('baton-master-state')
  const bytes = Buffer.from(JSON.stringify(state))
  for (let at = 0; at < bytes.length;) at += writeSync(file.fd, bytes, at, bytes.length - at, at)
  return file
}

/**
 * The state written by the previous program; undefined in a newly started process. Call once: removes the variable, which must
 * not reach children, and closes the descriptor.
 *
 * @throws {Error} its version cannot be read
 */
export function takeState(environment: NodeJS.ProcessEnv): MasterState | undefined {
  const number = environment[STATE_VARIABLE]
  if (number === undefined) return undefined
  delete environment[STATE_VARIABLE]
  const fd = Number(number)
  const bytes = Buffer.alloc(fstatSync(fd).size)
  for (let at = 0; at < bytes.length;) at += readSync(fd, bytes, at, bytes.length - at, at)
  closeSync(fd)
  const state = JSON.parse(bytes.toString()) as MasterState | FirstState
  if (!READABLE_VERSIONS.includes(state.version)) {
    throw new Error(
      `the state has version ${String(state.version)}, but this program reads only ${READABLE_VERSIONS.join(', ')}`,
    )
  }
  return 'askers' in state ? state : { ...state, askers: [state.asker], waiting: [] }
}
