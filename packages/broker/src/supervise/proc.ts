import { readFileSync, readlinkSync } from 'node:fs'

/** What /proc says of a process (proc_pid_stat(5)). */
export interface ProcessFacts {
  readonly pid: number
  /** Of its program, at most 15 bytes. */
  readonly name: string
  readonly parent: number
  readonly group: number
  readonly session: number
  /** In ticks since the boot: with the pid it names one process for good. */
  readonly startedAt: string
}

/** Undefined when there is no such process. */
export function factsOf(pid: number): ProcessFacts | undefined {
  const text = readOr(`/proc/${pid}/stat`)
  if (text === undefined) return undefined
  // The name is in parentheses, and may contain some.
  const end = text.lastIndexOf(')')
  const fields = text.slice(end + 2).split(' ')
  return {
    pid,
    name: text.slice(text.indexOf('(') + 1, end),
    parent: Number(fields[1]),
    group: Number(fields[2]),
    session: Number(fields[3]),
    startedAt: fields[19] ?? '',
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
