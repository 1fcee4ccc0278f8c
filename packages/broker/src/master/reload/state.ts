import { closeSync, fstatSync, readSync, writeSync } from 'node:fs'
import { createMemoryFile, type OwnedFd } from '@baton/native-sendmsg'
import type { BackendReport } from '../../ipc/messages.ts'
import { READABLE_VERSIONS } from '../../ipc/state-version.ts'
import type { FleetState } from '../fleet/state.ts'
import type { LifelineState } from '../../supervise/lifeline.ts'
import type { CountersState } from '../workers/counters.ts'
import type { RunState } from '../run/app-run.ts'
import type { ListeningSocketsState } from '../listening-sockets.ts'
import type { LogState } from '../start-log.ts'
import type { ProgramNames } from './installed-program.ts'
import type { WorkerState } from '../workers/worker-process.ts'

/** Number of the memory file, in the environment of the program that takes over. */
export const STATE_VARIABLE = 'BATON_MASTER_STATE'

/** Who asked for a reload, and is told how it went. */
export type Requester =
  | { readonly kind: 'session' }
  | { readonly kind: 'worker'; readonly worker: number; readonly ask: number; readonly by: string }
  | { readonly kind: 'signal' }

/** All that a master knows when it replaces its own program. Numbers of descriptors are those that cross exec. */
export interface MasterState {
  readonly version: number
  /** How often this process has replaced its program. */
  readonly executions: number
  readonly file: string
  /** Absent in the state of an older program. */
  readonly program?: ProgramNames
  /** The configuration in force, and the one that is to be. */
  readonly text: string
  readonly candidate: string
  readonly lock: number
  readonly sockets: ListeningSocketsState
  /** The socketpair through which the sessions that asked go. */
  readonly pair: readonly [number, number]
  readonly workers: readonly WorkerState[]
  /** Backends that are known of earlier workers; missing in the state that an older program wrote. */
  readonly known?: readonly BackendReport[]
  /** How many workers there have been. */
  readonly started: number
  readonly counters: CountersState
  readonly fleet: FleetState
  /** Missing in the state that an older program wrote. */
  readonly lifeline?: LifelineState
  /** Who asked for the reload that goes on, and for the one behind it. Their sessions are in the pair, in this order. */
  readonly askers: readonly Requester[]
  readonly waiting: readonly Requester[]
  /** ISO 8601: of the process. */
  readonly startedAt: string
  readonly run: RunState | null
  /** Absent in the state of a program that had none. */
  readonly log?: LogState
}

/** Version 1: requests did not wait. */
type FirstState = Omit<MasterState, 'askers' | 'waiting'> & { readonly asker: Requester }

/** All that the state names but for the fleet's. */
export function descriptorsOf({ lock, pair, sockets, workers, lifeline }: MasterState): number[] {
  return [
    lock,
    ...pair,
    ...(lifeline ?? []),
    sockets.control,
    sockets.operator,
    sockets.admin.fd,
    ...sockets.listeners.map(({ fd }) => fd),
    ...workers.flatMap(({ channel, stderr }) => (stderr === null ? [channel] : [channel, stderr])),
  ]
}

/** Writes it down where the next program finds it. The caller keeps the descriptor over exec, or closes it. */
export function writeState(state: MasterState): OwnedFd {
  const file = createMemoryFile('baton-master-state')
  const bytes = Buffer.from(JSON.stringify(state))
  for (let at = 0; at < bytes.length;) at += writeSync(file.fd, bytes, at, bytes.length - at, at)
  return file
}

/**
 * What a program before this one has written down for it; undefined in a process that was started anew. Once: the variable
 * must not reach children.
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
      `the state is of version ${String(state.version)}, and this program reads ${READABLE_VERSIONS.join(', ')}`,
    )
  }
  return 'askers' in state ? state : { ...state, askers: [state.asker], waiting: [] }
}
