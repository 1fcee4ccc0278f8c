import { readFileSync } from 'node:fs'
import type { ProcessExit } from '../../supervise/child.ts'
import { factsOf } from '../../supervise/proc.ts'

/** What the kernel says of a process's main thread (proc(5)). */
export interface ThreadStats {
  /** A letter and its meaning, such as `T (stopped)`. */
  readonly state: string
  /** Milliseconds on a processor, and waiting for one, since it was started. */
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

/** Undefined where /proc does not tell. */
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

/** For most of the time between two looks it wanted a processor and got none. */
const STARVED = 0.8

/** @param elapsed milliseconds between the two */
export function wasStarved(
  before: ThreadStats | undefined,
  now: ThreadStats | undefined,
  elapsed: number,
): boolean {
  if (before === undefined || now === undefined) return false
  return now.waiting - before.waiting > STARVED * elapsed
}

/** Stopped by a signal, until a SIGCONT. */
export function isStopped(pid: number): boolean {
  return threadStats(pid)?.state.startsWith('T') === true
}

/** Signals by which a process ends that is at fault, or that is to be ended whatever it does. */
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

/** The signal that ended a process through no fault of its own: one that it would not have ended by, had it been there a little longer. */
export function strayEnd({ code, signal }: ProcessExit): string | undefined {
  // Node has no names for real-time signals: such an end looks like an exit.
  if (signal === null || (signal as string) === '') return code === 0 ? 'a real-time signal' : undefined
  return MEANT.has(signal) ? undefined : signal
}
