import { constants } from 'node:os'
import inspector from 'node:inspector'
import { ignoreSignal } from '@baton/native-sendmsg'
import type { Logger } from 'pino'

/**
 * Signals that mean nothing to Baton but end or stop a process by default: other servers change their number of workers on
 * SIGTTIN and SIGTTOU, timers send SIGALRM, power daemons SIGPWR. (SIGTSTP and SIGCONT are left to the shell's job control.)
 */
const MEANINGLESS = [
  'SIGALRM',
  'SIGIO',
  'SIGPIPE',
  'SIGPROF',
  'SIGPWR',
  'SIGSTKFLT',
  'SIGTTIN',
  'SIGTTOU',
  'SIGVTALRM',
  'SIGXCPU',
  'SIGXFSZ',
] as const

/** Node has no names for real-time signals. Some container managers send one to stop a process they take for systemd. */
const FIRST_REAL_TIME = 34
const LAST_REAL_TIME = 64

/** Ignores these signals from now on. Child processes start with the defaults. */
export function ignoreMeaninglessSignals(): void {
  for (const name of MEANINGLESS) ignoreSignal(constants.signals[name])
  for (let number = FIRST_REAL_TIME; number <= LAST_REAL_TIME; number++) ignoreSignal(number)
}

/** Whether the command line or NODE_OPTIONS enables the debugger. */
function isInspectorWanted(): boolean {
  return [...process.execArgv, process.env['NODE_OPTIONS'] ?? ''].some((text) => /--inspect/.test(text))
}

/** Node opens its inspector on a SIGUSR1 that arrives before the program listens for that signal. */
export function closeStrayInspector(logger: Logger): void {
  if (isInspectorWanted() || inspector.url() === undefined) return
  inspector.close()
  logger.warn('a SIGUSR1 during the start opened the inspector; closed it')
}
