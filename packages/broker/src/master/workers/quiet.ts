import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '../../errors.ts'
import { RunningTime } from '../../supervise/running-time.ts'

/** Timeout for workers to finish their messages, in ms, beyond the time in which a stuck worker is replaced; and how often to check. */
const QUIET_TIMEOUT_MS = 30_000
const QUIET_INTERVAL_MS = 2

/**
 * Resolves when no worker is busy.
 *
 * @param workerTimeout in ms
 * @throws {BrokerError} BATON_ERR_WORKER_SILENT
 */
export async function untilQuiet(
  busy: () => { readonly pid: number } | undefined,
  workerTimeout: number,
): Promise<void> {
  const time = new RunningTime(10 * QUIET_INTERVAL_MS)
  let left = QUIET_TIMEOUT_MS + 2 * workerTimeout
  for (let worker = busy(); worker !== undefined; worker = busy()) {
    left -= time.step()
    if (left <= 0) throw new BrokerError('BATON_ERR_WORKER_SILENT', `pid ${worker.pid}`)
    await sleep(QUIET_INTERVAL_MS)
  }
}
