import { readFileSync } from 'node:fs'
import type { ProcessExit } from '../../supervise/child.ts'
import { factsOf } from '../../supervise/proc.ts'

/** The kernel's figures for the main thread of a process (proc(5)). */
export interface ThreadStats {
  /** A letter and its meaning, such as `T (stopped)`. */
  readonly state: string
  /** Time on a CPU, and waiting for one, since its start, in ms. */
  readonly running: number
  readonly waiting: number
}

const STATES: Readonly<Record<string, string>> = {
  R: 'running',
  S: 'sleeping',
  D: 'in a system call that cannot be interrupted',
  T: 'stopped',
  t: 'stopped by a debugger',
  Z: 'ended',
}

/** Undefined if /proc does not show them. */
export function threadStats(pid: number): ThreadStats | undefined {
  try {
    const letter = factsOf(pid)?.state
    if (letter === undefined) return undefined
    const [running, waiting] = readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ').map(Number)
    if (running === undefined || waiting === undefined) return undefined
    const state = `${letter} (${STATES[letter] ?? 'unknown'})`
    return { state, running: running / 1e6, waiting: waiting / 1e6 }
  } catch {
    return undefined
  }
}

/** Share of the time between two checks that a thread must have waited for a CPU to count as starved. */
const STARVED = 0.8

/** @param elapsed time between the two, in ms */
export function wasStarved(
  before: ThreadStats | undefined,
  now: ThreadStats | undefined,
  elapsed: number,
): boolean {
  if (before === undefined || now === undefined) return false
  return now.waiting - before.waiting > STARVED * elapsed
}

/** Whether it was stopped by a signal and waits for SIGCONT. */
export function isStopped(pid: number): boolean {
  return threadStats(pid)?.state.startsWith('T') === true
}

/** Signals that end a faulty process, or that are meant to end it unconditionally. */
const MEANT = new Set<NodeJS.Signals>([
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGKILL',
  'SIGSEGV',
  'SIGSYS',
  'SIGTRAP',
])

/** The signal that ended a process through no fault of its own, or undefined. */
export function strayEnd({ code, signal }: ProcessExit): string | undefined {
  // Node has no names for real-time signals: such an end looks like an exit with code 0.
  if (signal === null || (signal as string) === '') return code === 0 ? 'a real-time signal' : undefined
  return MEANT.has(signal) ? undefined : signal
}
