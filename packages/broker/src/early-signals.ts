/** Signals the master handles; `master/main.ts` defines what each does. */
export const MASTER_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const
export type MasterSignal = (typeof MASTER_SIGNALS)[number]

const early: MasterSignal[] = []
const keepSignal = (signal: MasterSignal) => void early.push(signal)

/**
 * Buffers signals until the master can handle them: while modules load, a signal without a listener would kill the process or open
 * the inspector. After exec, signals that arrived before this call are blocked and pending (`keepSignals` of `executeInPlace`).
 */
export function keepEarlySignals(): void {
  for (const signal of MASTER_SIGNALS) process.on(signal, keepSignal)
}

/** Stops buffering and returns the signals received so far, in order. The caller installs its own listeners. */
export function takeEarlySignals(): readonly MasterSignal[] {
  for (const signal of MASTER_SIGNALS) process.off(signal, keepSignal)
  return early.splice(0)
}
