import { readFileSync, readlinkSync } from 'node:fs'
import type { PeerCredentials } from '@baton/native-sendmsg'

/** What /proc says of a process (proc_pid_stat(5)). */
export interface ProcessFacts {
  readonly pid: number
  /** Of its program, at most 15 bytes. */
  readonly name: string
  /** `R`, `S`, `T` and so on. */
  readonly state: string
  readonly parent: number
  readonly group: number
  readonly session: number
  /** In ticks since the boot: with the pid it names one process for good. */
  readonly startedAt: string
}

/** Undefined when there is no such process, or when /proc does not show it. */
export function factsOf(pid: number): ProcessFacts | undefined {
  const text = readOr(`/proc/${pid}/stat`)
  if (text === undefined) return undefined
  // The name is in parentheses, and may contain some.
  const end = text.lastIndexOf(')')
  const fields = text.slice(end + 2).split(' ')
  return {
    pid,
    name: text.slice(text.indexOf('(') + 1, end),
    state: fields[0] ?? '',
    parent: Number(fields[1]),
    group: Number(fields[2]),
    session: Number(fields[3]),
    startedAt: fields[19] ?? '',
  }
}

/** A process as the kernel names it, never as it names itself. */
export interface PeerProcess {
  /** 0 for a process of a pid namespace that cannot be seen from here: a container beside this one. */
  readonly pid: number
  readonly uid: number
  /** When it started, in clock ticks since boot: a pid is used again. Null when /proc does not show it. */
  readonly started: string | null
}

export function processOf({ pid, uid }: PeerCredentials): PeerProcess {
  return { pid, uid, started: (pid > 0 ? factsOf(pid)?.startedAt : undefined) ?? null }
}

/**
 * Whether both are one process, as far as the kernel tells: of processes that cannot be seen from here it tells the user alone. What was
 * not recorded does not make a difference.
 */
export function isSameProcess(one: PeerProcess, other: PeerProcess): boolean {
  if (one.pid !== other.pid || one.uid !== other.uid) return false
  return one.started === null || other.started === null || one.started === other.started
}

/** Whether there is such a process; one that has ended and was not reaped yet counts as one. */
export function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** What the descriptor of a process refers to; undefined when there is none, or it may not be looked at. */
export function openFileOf(pid: number, fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`)
  } catch {
    return undefined
  }
}

/** Flags of open(2) of a descriptor of this process. */
export function flagsOf(fd: number): number | undefined {
  const flags = /^flags:\s+([0-7]+)$/m.exec(readOr(`/proc/self/fdinfo/${fd}`) ?? '')?.[1]
  return flags === undefined ? undefined : Number.parseInt(flags, 8)
}

function readOr(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}
