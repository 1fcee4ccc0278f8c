/** Signals that a master takes as commands. What each means is decided in `master/main.ts`. */
export const MASTER_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const
export type MasterSignal = (typeof MASTER_SIGNALS)[number]

const early: MasterSignal[] = []
const keepSignal = (signal: MasterSignal) => void early.push(signal)

/**
 * Keeps signals until there is a master to obey them: loading the program takes longer than a second signal may wait, and one
 * without a listener ends the process, or opens the inspector. A program that replaces another one finds those that came before
 * this pending (`keepSignals` of `executeInPlace`).
 */
export function keepEarlySignals(): void {
  for (const signal of MASTER_SIGNALS) process.on(signal, keepSignal)
}

/** Those that have come, in order; the caller listens for them by itself from now on. */
export function takeEarlySignals(): readonly MasterSignal[] {
  for (const signal of MASTER_SIGNALS) process.off(signal, keepSignal)
  return early.splice(0)
}
