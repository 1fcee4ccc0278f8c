import type { Logger } from 'pino'
import type { InstanceStatus } from '../api/master-status.ts'

/** What a master answers to `status`. */
export interface MasterReport {
  readonly master: { readonly pid: number }
  readonly managed: readonly InstanceStatus[]
  readonly workers: readonly { readonly pid: number; readonly role: string }[]
}

/** A line for the master, for each worker and for each managed process. Their `msg` begins with `status: `. */
export function logStatus(logger: Logger, { master, managed, workers }: MasterReport, waiting: number): void {
  // The master's pid is on each of its lines.
  const { pid: _, ...rest } = master
  logger.info({ ...rest, reloadsWaiting: waiting }, 'status: master')
  for (const { pid: workerPid, ...worker } of workers) logger.info({ workerPid, ...worker }, 'status: worker')
  for (const { pid: peerPid, ...instance } of managed)
    logger.info({ peerPid, ...instance }, 'status: managed process')
}
