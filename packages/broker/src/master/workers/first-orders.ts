import type { OwnedFd } from '@baton/native-sendmsg'
import { MAX_DESCRIPTORS } from '../../ipc/channel.ts'
import type { Controls } from '../../ipc/controls.ts'
import type { History } from '../../api/history.ts'
import type { Shifts } from '../../api/shift.ts'
import { packConfig } from '../../config/packed.ts'
import type { TicketKeys } from '../../ipc/ticket-keys.ts'
import type { BackendReport, ManagedReport } from '../../ipc/messages.ts'
import { BrokerError } from '../../errors.ts'
import { modeOfSockets } from '../../listening/sockets.ts'
import type { ActiveConfig } from '../active-config.ts'
import { controlPath } from '../listening-sockets.ts'
import { knownOf } from './backends-seen.ts'
import type { WorkerProcess } from './worker-process.ts'

/** Timeout for a worker to be ready after its start, in ms. */
export const START_TIMEOUT_MS = 30_000

/** The configuration that a worker is started with: the active one, or the next one during a reload. */
export type Configuration = Pick<ActiveConfig, 'settings' | 'sockets'>

/** The first messages to a new worker: its sockets and its configuration. */
export function sendFirstOrders(
  worker: WorkerProcess,
  { settings: { config }, sockets }: Configuration,
  {
    backends,
    managed,
    controls,
    shifts,
    administersLate,
    history,
    tickets,
  }: {
    readonly backends: readonly BackendReport[]
    readonly managed: readonly ManagedReport[]
    readonly controls: Controls
    readonly shifts: Shifts
    readonly administersLate: boolean
    readonly history: History
    readonly tickets: TicketKeys
  },
): void {
  const listeners = [...sockets.listeners]
  for (let from = 0; from < listeners.length; from += MAX_DESCRIPTORS) {
    const batch = listeners.slice(from, from + MAX_DESCRIPTORS)
    const names = batch.map(([name]) => name)
    worker.send(
      { type: 'sockets', role: 'listener', names },
      batch.map(([, { fd }]) => fd.fd),
    )
  }
  worker.send({ type: 'sockets', role: 'control', names: [] }, [sockets.control.fd.fd])
  worker.send({ type: 'sockets', role: 'admin', names: [] }, [sockets.admin.fd.fd])
  const { agentCheck } = sockets
  if (agentCheck !== undefined)
    worker.send({ type: 'sockets', role: 'agentCheck', names: [] }, [agentCheck.fd.fd])
  worker.send({
    type: 'start',
    config: packConfig(config),
    control: { path: controlPath(config), mode: modeOfSockets(config) },
    known: knownOf(backends),
    managed,
    controls,
    shifts,
    administersLate,
    history,
    tickets,
  })
}

/**
 * Connects a worker that is being replaced with the next one: connections that wait there move over this pair. From `opened` on, the next one accepts and
 * has all that it needs if this process is killed; only then the old one stops accepting. So there is one at any time that goes on, and if this process is
 * killed in between, the old one learns from the next one that it was succeeded. Takes the ends themselves: there may be no
 * free descriptor for duplicates, and by now neither worker can be told that nothing has changed.
 *
 * @param pair owned from now on
 */
export function introduce(
  old: WorkerProcess,
  next: WorkerProcess,
  [theirs, ours]: readonly [OwnedFd, OwnedFd],
  removed: readonly string[],
  deadline: number,
  opened = (): void => {},
): void {
  if (!old.succeeds || !next.succeeds) {
    next.give({ type: 'peer' }, [theirs])
    opened()
    return old.give({ type: 'finish', removed, deadline }, [ours])
  }
  old.give({ type: 'successor', removed, deadline }, [ours])
  next.give({ type: 'peer' }, [theirs])
  opened()
  // Messages that the kernel does not have yet would end with this process.
  void next.sent().then(() => old.send({ type: 'finish', removed, deadline }))
}

/** Why a worker could not be started. @param stopped by SIGSTOP */
export function startFailure(worker: WorkerProcess, stopped = false): BrokerError {
  const output = worker.failure ?? worker.lastLines.join('\n')
  const signal = worker.strayEnd
  const why = output === '' ? (signal ?? 'without any output') : output
  const late = stopped ? 'stopped (SIGSTOP)' : `not within ${START_TIMEOUT_MS} ms`
  return new BrokerError('BATON_ERR_WORKER_FAILED', worker.alive ? late : why)
}
