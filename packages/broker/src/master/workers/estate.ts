import { NativeError, type OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { CLAIM_VERSION } from '../../ipc/claim.ts'
import type { Controls } from '../../ipc/controls.ts'
import type { KeptOutput } from '../../ipc/messages.ts'
import type { Shifts } from '../../api/shift.ts'
import type { LifelineState } from '../../supervise/lifeline.ts'
import type { ActiveConfig } from '../active-config.ts'
import { processesOf, type FleetState, type ProcessState } from '../fleet/state.ts'
import type { ListeningSocketsState } from '../listening-sockets.ts'
import type { TicketRotationState } from '../tickets/ticket-rotation.ts'
import type { CountersState } from './counters.ts'
import type { FinishingWorker } from '../../ipc/copies.ts'
import type { WorkerProcess } from './worker-process.ts'

/** State that the serving worker keeps for the next master, in case this one is killed. */
export interface Estate {
  readonly version: number
  /** The active configuration. */
  readonly text: string
  readonly sockets: ListeningSocketsState
  readonly counters: CountersState
  /** How many workers were started so far. */
  readonly started: number
  readonly fleet: FleetState
  readonly lifeline: LifelineState
  /** Absent in the estate of an older program. */
  readonly controls?: Controls
  /** Absent from a master of an older version. */
  readonly shifts?: Shifts
  /** Absent from a master of an older version. */
  readonly tickets?: TicketRotationState
  /** Earlier workers, whose counts are not in `counters` yet. Absent from a master of an older version. */
  readonly finishing?: readonly FinishingWorker[]
  /** Numbers under which the descriptors that go with it are in this state, in their order. */
  readonly numbers: readonly number[]
}

export interface EstateMessage {
  readonly estate: Estate
  readonly outputs: readonly KeptOutput[]
  /** How many of the descriptors, from the first, are listening sockets. */
  readonly sockets: number
  /** Borrowed. */
  readonly fds: readonly number[]
}

/**
 * Descriptors of an estate. They fit into the part of a worker's table that clients may not use up (64, `DescriptorReserve`): if the kernel
 * dropped one, the channel would end, and the worker would take its master for dead.
 */
const MAX_FDS = 48

/**
 * The first descriptor is the operator's socket. If there are too many for one message, the output of managed processes is not among them, and then
 * not the counts of workers that finish.
 *
 * @returns undefined if the sockets alone are too many: then the worker ends with its master
 */
export function estateOf(
  { settings, sockets }: Pick<ActiveConfig, 'settings' | 'sockets'>,
  rest: Pick<Estate, 'counters' | 'started' | 'fleet' | 'lifeline' | 'controls' | 'shifts' | 'tickets'> & {
    /** Undefined for one that writes nothing. */
    readonly finishing: readonly (FinishingWorker | undefined)[]
  },
): EstateMessage | undefined {
  const { state } = sockets
  const needed: number[] = [
    state.operator,
    state.control,
    state.admin.fd,
    ...(state.agentCheck === undefined ? [] : [state.agentCheck.fd]),
    ...state.listeners.map(({ fd }) => fd),
    ...rest.lifeline,
  ]
  if (needed.length > MAX_FDS) return undefined
  const fit = needed.length + rest.finishing.length <= MAX_FDS
  const finishing = fit ? rest.finishing.filter((worker) => worker !== undefined) : []
  const files = finishing.map(({ file }) => file)
  const outputs = [...processesOf(rest.fleet)].flatMap(outputsOf)
  const kept = needed.length + files.length + outputs.length > MAX_FDS ? [] : outputs
  const fds = [...needed, ...files, ...kept.map(({ fd }) => fd)]
  const counters = finishing.length < rest.finishing.length ? withoutMoves(rest.counters) : rest.counters
  const kinds = { version: CLAIM_VERSION, text: settings.text, sockets: state }
  return {
    estate: { ...kinds, ...rest, counters, finishing, numbers: fds },
    outputs: kept.map(({ fd, ...output }) => ({ ...output, index: fds.indexOf(fd) })),
    sockets: needed.length - rest.lifeline.length,
    fds,
  }
}

/** The next master does not learn what moved from or to some worker. */
function withoutMoves(counters: CountersState): CountersState {
  const { open, moved } = counters.losses ?? { open: {}, moved: {} }
  return { ...counters, losses: { open, moved, isBlind: true } }
}

/** Without a message, the worker ends with its master. */
export function giveEstate(
  worker: Pick<WorkerProcess, 'send'>,
  message: EstateMessage | undefined,
  logger: Logger,
): void {
  const { estate = null, outputs = [], sockets = 0, fds = [] } = message ?? {}
  try {
    worker.send({ type: 'estate', estate, outputs, sockets }, fds)
  } catch (error) {
    // It has the one before.
    if (!(error instanceof NativeError)) throw error
    logger.error({ err: error }, 'the worker could not get what the next master needs')
  }
}

function outputsOf([instance, { id, numbers, slot }]: readonly [string, ProcessState]) {
  const { pid } = numbers
  return (['stdout', 'stderr'] as const).flatMap((stream) => {
    const fd = numbers[stream]
    const service = instance.slice(0, instance.lastIndexOf('.'))
    return fd === null ? [] : [{ fd, instance, backend: id, pid, stream, service, slot }]
  })
}

/** The state with the numbers of the same descriptors in this process. It owns them from now on. */
export function withDescriptors(estate: Estate, fds: readonly OwnedFd[]): Estate {
  const numbers = new Map(fds.map((fd, index) => [estate.numbers[index], fd.release()]))
  const here = (fd: number) => numbers.get(fd) ?? -1
  const { sockets, fleet, lifeline } = estate
  const output = (fd: number | null) => (fd === null ? null : (numbers.get(fd) ?? null))
  const process = (saved: ProcessState): ProcessState => ({
    ...saved,
    foreign: true,
    // The master has read on since; what it had of a line is lost with it.
    partial: { stdout: '', stderr: '' },
    numbers: {
      ...saved.numbers,
      stdout: output(saved.numbers.stdout),
      stderr: output(saved.numbers.stderr),
    },
  })
  return {
    ...estate,
    ...(estate.finishing && {
      finishing: estate.finishing.map((worker) => ({ ...worker, file: here(worker.file) })),
    }),
    sockets: {
      ...sockets,
      operator: here(sockets.operator),
      control: here(sockets.control),
      admin: { ...sockets.admin, fd: here(sockets.admin.fd) },
      ...(sockets.agentCheck && {
        agentCheck: { ...sockets.agentCheck, fd: here(sockets.agentCheck.fd) },
      }),
      listeners: sockets.listeners.map((listener) => ({ ...listener, fd: here(listener.fd) })),
    },
    lifeline: [here(lifeline[0]), here(lifeline[1])],
    fleet: {
      ...fleet,
      services: fleet.services.map((service) => ({
        ...service,
        instances: service.instances.map((instance) => ({
          ...instance,
          process: instance.process && process(instance.process),
        })),
        leaving: service.leaving.map((each) => ({ ...each, process: process(each.process) })),
      })),
    },
  }
}
