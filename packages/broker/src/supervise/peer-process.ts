import { readFileSync } from 'node:fs'
import type { PeerCredentials } from '@baton/native-sendmsg'

/** A process as the kernel names it, never as it names itself. */
export interface PeerProcess {
  /** 0 for a process of a pid namespace that cannot be seen from here: a container beside this one. */
  readonly pid: number
  readonly uid: number
  /** When it started, in clock ticks since boot: a pid is used again. Null when /proc does not show it. */
  readonly started: string | null
}

/** What /proc/PID/stat says (proc_pid_stat(5)). */
export interface ProcessStat {
  readonly parent: number
  readonly session: number
  readonly started: string
}

/** Undefined when there is no such process, or when /proc does not show it. */
export function readStat(pid: number): ProcessStat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name before it may contain anything, parentheses and blanks included.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return { parent: Number(fields[1]), session: Number(fields[3]), started: fields[19] ?? '' }
  } catch {
    return undefined
  }
}

export function processOf({ pid, uid }: PeerCredentials): PeerProcess {
  return { pid, uid, started: (pid > 0 ? readStat(pid)?.started : undefined) ?? null }
}

/**
 * Whether both are one process, as far as the kernel tells: of processes that cannot be seen from here it tells the user alone. What was
 * not recorded does not make a difference.
 */
export function isSameProcess(one: PeerProcess, other: PeerProcess): boolean {
  if (one.pid !== other.pid || one.uid !== other.uid) return false
  return one.started === null || other.started === null || one.started === other.started
}

export function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
