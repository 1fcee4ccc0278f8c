const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const
type Signal = (typeof SIGNALS)[number]

const early: Signal[] = []
const keepSignal = (signal: Signal) => void early.push(signal)

/**
 * Keeps signals from now on, until somebody can obey them: loading the program takes longer than a second signal may wait, and
 * an unheard one ends the process. Before this module nothing can: Node resets the signal mask and all dispositions when it starts,
 * so that neither crosses exec.
 */
export function keepEarlySignals(): void {
  for (const signal of SIGNALS) process.on(signal, keepSignal)
}

/** Those that have come, in order; the caller listens for them by itself from now on. */
export function takeEarlySignals(): readonly Signal[] {
  for (const signal of SIGNALS) process.off(signal, keepSignal)
  return early.splice(0)
}
