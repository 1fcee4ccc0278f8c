import { constants } from 'node:os'
import inspector from 'node:inspector'
import { ignoreSignal } from '@baton/native-sendmsg'
import type { Logger } from 'pino'

/**
 * Signals whose default would end or stop the process, and that are no command to it: other servers count their workers with
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

/** Real-time signals have no names in Node. Some container managers stop what they take for systemd with one of them. */
const FIRST_REAL_TIME = 34
const LAST_REAL_TIME = 64

/** From here on these do nothing. Processes that this one starts have the defaults. */
export function ignoreMeaninglessSignals(): void {
  for (const name of MEANINGLESS) ignoreSignal(constants.signals[name])
  for (let number = FIRST_REAL_TIME; number <= LAST_REAL_TIME; number++) ignoreSignal(number)
}

/** A debugger was asked for on the command line or in NODE_OPTIONS. */
function wasAskedFor(): boolean {
  return [...process.execArgv, process.env['NODE_OPTIONS'] ?? ''].some((text) => /--inspect/.test(text))
}

/** Node opens its inspector at a SIGUSR1 that comes before the program listens for that signal. */
export function closeStrayInspector(logger: Logger): void {
  if (wasAskedFor() || inspector.url() === undefined) return
  inspector.close()
  logger.warn('a SIGUSR1 during the start had opened the inspector; it is closed')
}
