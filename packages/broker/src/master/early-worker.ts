import type { LogFormat } from '../log/logger.ts'
import { InstalledProgram } from './reload/installed-program.ts'
import { STATE_VARIABLE } from './reload/state.ts'
import { StartedWorker } from './workers/started-worker.ts'

let early: StartedWorker | undefined

/**
 * Starts the first worker's process before the master's own program is loaded: both load at the same time. If it cannot be started, nothing
 * happens: the master tries again, and has a log to report it.
 */
export function startEarlyWorker(format: LogFormat): void {
  // Descriptors from the service manager or the program before this one are not close-on-exec yet.
  if (process.env['LISTEN_FDS'] !== undefined || process.env[STATE_VARIABLE] !== undefined) return
  try {
    early ??= StartedWorker.start(InstalledProgram.ofProcess().nodeForWorker(0), format)
  } catch {
    early = undefined
  }
}

/** The caller owns it. Undefined if there is none, or it was taken. */
export function takeEarlyWorker(): StartedWorker | undefined {
  const taken = early
  early = undefined
  return taken
}
