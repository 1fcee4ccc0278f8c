import type { Logger } from 'pino'
import type { InstanceStatus } from '../api/master-status.ts'

/** The answer to `status`. */
export interface MasterReport {
  readonly master: { readonly pid: number }
  readonly managed: readonly InstanceStatus[]
  readonly workers: readonly { readonly pid: number; readonly role: string }[]
}

/** Logs one line for the master, each worker and each managed process. Each `msg` begins with `status: `. */
export function logStatus(logger: Logger, { master, managed, workers }: MasterReport, waiting: number): void {
  // Every line the master logs already has its pid.
  const { pid: _, ...rest } = master
  logger.info({ ...rest, reloadsWaiting: waiting }, 'status: master')
  for (const { pid: workerPid, ...worker } of workers) logger.info({ workerPid, ...worker }, 'status: worker')
  for (const { pid: peerPid, ...instance } of managed)
    logger.info({ peerPid, ...instance }, 'status: managed process')
}
