import { RunningTime, STEP_MS } from '../../supervise/running-time.ts'
import { isStopped } from './thread-stats.ts'

/**
 * Calls `over` when a process has been stopped (SIGSTOP) for `milliseconds` of this process's running time without a break.
 *
 * @returns cancels the call
 */
export function afterStopped(pid: number, milliseconds: number, over: () => void): () => void {
  const time = new RunningTime(2 * STEP_MS)
  let left = milliseconds
  const timer = setInterval(() => {
    const elapsed = time.step()
    left = isStopped(pid) ? left - elapsed : milliseconds
    if (left > 0) return
    clearInterval(timer)
    over()
  }, STEP_MS)
  return () => clearInterval(timer)
}
