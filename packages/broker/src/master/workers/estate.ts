import type { OwnedFd } from '@baton/native-sendmsg'
import { CLAIM_VERSION } from '../../ipc/claim.ts'
import { MAX_DESCRIPTORS } from '../../ipc/channel.ts'
import type { ActiveConfig } from '../active-config.ts'
import type { ListeningSocketsState } from '../listening-sockets.ts'
import type { CountersState } from './counters.ts'

/** State that the serving worker keeps for the next master, in case this one is killed. Descriptors are numbers in `sockets` only while it is at a master. */
export interface Estate {
  readonly version: number
  /** The active configuration. */
  readonly text: string
  readonly sockets: ListeningSocketsState
  readonly counters: CountersState
  /** How many workers were started so far. */
  readonly started: number
}

/**
 * The estate with its descriptors, borrowed, in the order in which `withDescriptors` takes them. Undefined if they do not fit into one message: then
 * the worker ends with its master.
 */
export function estateOf(
  { settings, sockets }: Pick<ActiveConfig, 'settings' | 'sockets'>,
  counters: CountersState,
  started: number,
): [estate: Estate, fds: readonly number[]] | undefined {
  const { state } = sockets
  const fds = [state.operator, state.control, state.admin.fd, ...state.listeners.map(({ fd }) => fd)]
  // One more goes with them when it is claimed.
  if (fds.length >= MAX_DESCRIPTORS) return undefined
  return [{ version: CLAIM_VERSION, text: settings.text, sockets: state, counters, started }, fds]
}

/** The sockets under their numbers in this process. The state owns the descriptors from now on. */
export function withDescriptors(
  sockets: ListeningSocketsState,
  fds: readonly OwnedFd[],
): ListeningSocketsState {
  const [operator = -1, control = -1, admin = -1, ...listeners] = fds.map((fd) => fd.release())
  return {
    ...sockets,
    operator,
    control,
    admin: { ...sockets.admin, fd: admin },
    listeners: sockets.listeners.map((listener, index) => ({ ...listener, fd: listeners[index] ?? -1 })),
  }
}
