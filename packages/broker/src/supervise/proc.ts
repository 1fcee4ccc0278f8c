import { readFileSync, readlinkSync } from 'node:fs'
import type { PeerCredentials } from '@baton/native-sendmsg'

/** A process as /proc shows it (proc_pid_stat(5)). */
export interface ProcessFacts {
  readonly pid: number
  /** Of its program, at most 15 bytes. */
  readonly name: string
  /** `R`, `S`, `T` and so on. */
  readonly state: string
  readonly parent: number
  readonly group: number
  readonly session: number
  /** Has a controlling terminal. */
  readonly terminal: boolean
  /** In clock ticks since boot. Together with the pid it identifies a process for good. */
  readonly startedAt: string
}

/** Undefined if there is no such process, or /proc does not show it. */
export function factsOf(pid: number): ProcessFacts | undefined {
  const text = readOr(`/proc/${pid}/stat`)
  if (text === undefined) return undefined
  // The name is in parentheses, and may contain parentheses.
  const end = text.lastIndexOf(')')
  const fields = text.slice(end + 2).split(' ')
  return {
    pid,
    name: text.slice(text.indexOf('(') + 1, end),
    state: fields[0] ?? '',
    parent: Number(fields[1]),
    group: Number(fields[2]),
    session: Number(fields[3]),
    terminal: fields[4] !== '0',
    startedAt: fields[19] ?? '',
  }
}

/** Its arguments; one string with all of them if the program has given itself a title. Empty if there is no such process. */
export function argumentsOf(pid: number): string[] {
  return (readOr(`/proc/${pid}/cmdline`) ?? '').replace(/\0+$/, '').split('\0')
}

/** Resident memory in bytes (VmRSS, proc_pid_status(5)); undefined if there is no such process, or it has ended. */
export function residentBytes(pid: number): number | undefined {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readOr(`/proc/${pid}/status`) ?? '')?.[1]
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024
}

/** A process as the kernel identifies it, never by its own claims. */
export interface PeerProcess {
  /** 0 for a process in a pid namespace that is not visible here, such as another container. */
  readonly pid: number
  readonly uid: number
  /** Start time in clock ticks since boot, because pids are reused. Null if /proc does not show it. */
  readonly started: string | null
}

export function processOf({ pid, uid }: PeerCredentials): PeerProcess {
  return { pid, uid, started: (pid > 0 ? factsOf(pid)?.startedAt : undefined) ?? null }
}

/**
 * Whether both are the same process, as far as the kernel shows: for processes that are not visible here, only the user is known. A start
 * time that was not recorded matches any.
 */
export function isSameProcess(one: PeerProcess, other: PeerProcess): boolean {
  if (one.pid !== other.pid || one.uid !== other.uid) return false
  return one.started === null || other.started === null || one.started === other.started
}

/** Whether there is such a process. One that has exited and has not been reaped counts. */
export function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/** The target of a descriptor of a process, as in /proc/PID/fd; undefined if it is not open, or this process may not read it. */
export function openFileOf(pid: number, fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`)
  } catch {
    return undefined
  }
}

/** The open(2) flags of a descriptor of this process. */
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
