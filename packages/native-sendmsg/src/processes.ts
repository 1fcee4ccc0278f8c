import { constants } from 'node:os'
import { KCMP_FILE, WNOHANG } from './abi.ts'
import { lazyArena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

const MAX_PID = 0x7fff_ffff

/** How a process ended, as reported by `ChildProcess`. */
export interface ProcessExit {
  /** Null if a signal ended it. */
  readonly code: number | null
  /** Null if it exited, or if the signal has no name (real-time signals). */
  readonly signal: NodeJS.Signals | null
}

/** The first name of each signal, which Node uses too: SIGABRT, not SIGIOT. */
const signalNames: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.signals)
    .map(([name, number]): [number, string] => [number, name])
    .toReversed(),
)

/**
 * Opens a pidfd, CLOEXEC and owned by the caller (pidfd_open(2), Linux 5.3). It is readable (EPOLLIN) once
 * the process has ended, reaped or not, and never refers to another process with the same pid. Open it while
 * the pid cannot be reused: for a child, before it is reaped. NativeError with `pid`: ESRCH.
 */
export function openProcess(pid: number): OwnedFd {
  refuseGroups(pid)
  const fd = libc.pidfd_open(pid, 0)
  if (fd === -1) throw new NativeError('pidfd_open', lastErrno(), { pid })
  return new OwnedFd(fd)
}

/** A descriptor of another process: its pid, and the descriptor's number there. */
export type ForeignFd = readonly [pid: number, fd: number]

/**
 * Whether two descriptors, in any processes of this user, refer to the same open file (kcmp(2)): inherited or passed, rather
 * than opened separately. Undefined if the kernel cannot tell: no CONFIG_KCMP, or no permission (ptrace(2)).
 */
export function sameOpenFile(one: ForeignFd, other: ForeignFd): boolean | undefined {
  refuseGroups(one[0])
  refuseGroups(other[0])
  const order = libc.kcmp(one[0], other[0], KCMP_FILE, one[1], other[1])
  return order === -1 ? undefined : order === 0
}

const statusArena = lazyArena(4)

/**
 * Reaps one child (waitpid(2) with WNOHANG); undefined while it is running. NativeError ECHILD
 * with `pid` if it is not a child of this process, or was already reaped. Not for children with a
 * `ChildProcess`: Node reaps those itself, also by pid.
 */
export function reap(pid: number): ProcessExit | undefined {
  refuseGroups(pid)
  const arena = statusArena()
  const ended = libc.waitpid(pid, arena.address, WNOHANG)
  if (ended === -1) throw new NativeError('waitpid', lastErrno(), { pid })
  return ended === 0 ? undefined : parseStatus(arena.buffer.readInt32LE(0))
}

/**
 * Ends this process immediately (_exit(2)). `process.exit` first joins the threads of libuv's pool, and so waits for a blocked
 * write(2) or open(2). No `exit` listener runs, and no stream is flushed. Does not return.
 */
export function exitAtOnce(code: number): void {
  libc.exit(code)
}

/** Parses the status of wait(2): the signal in the low 7 bits, 0 for none; the exit code in the second byte. */
function parseStatus(status: number): ProcessExit {
  const signal = status & 0x7f
  if (signal === 0) return { code: (status >> 8) & 0xff, signal: null }
  return { code: null, signal: (signalNames.get(signal) ?? null) as NodeJS.Signals | null }
}

/** 0 and negative numbers mean process groups, as would a number that wraps around to one. */
function refuseGroups(pid: number): void {
  if (!Number.isInteger(pid) || pid <= 0 || pid > MAX_PID) {
    throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', `pid ${pid}`)
  }
}
