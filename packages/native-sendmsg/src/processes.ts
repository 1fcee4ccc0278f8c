import { constants } from 'node:os'
import { WNOHANG } from './abi.ts'
import { lazyArena } from './arena.ts'
import { OwnedFd } from './descriptors.ts'
import { BatonNativeError, NativeError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'

const LARGEST_PID = 0x7fff_ffff

/** How a process ended, as `ChildProcess` tells it. */
export interface ProcessExit {
  /** Null when a signal ended it. */
  readonly code: number | null
  /** Null when it exited by itself, and for a signal that has no name (the real-time ones). */
  readonly signal: NodeJS.Signals | null
}

/** The first name of each signal is the one that Node uses too: SIGABRT, not SIGIOT. */
const signalNames: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.signals)
    .map(([name, number]): [number, string] => [number, name])
    .toReversed(),
)

/**
 * A descriptor of a process, CLOEXEC (pidfd_open(2), Linux 5.3); the caller owns it. It is readable
 * (EPOLLIN) once the process has ended, reaped or not, and never means another process of the same number:
 * ask for it while the pid can not be taken by somebody else, for a child before it is reaped. NativeError
 * with `pid`: ESRCH.
 */
export function openProcess(pid: number): OwnedFd {
  refuseGroups(pid)
  const fd = libc.pidfd_open(pid, 0)
  if (fd === -1) throw new NativeError('pidfd_open', lastErrno(), { pid })
  return new OwnedFd(fd)
}

const statusArena = lazyArena(4)

/**
 * Takes the exit status of one child (waitpid(2) with WNOHANG); undefined while it lives. NativeError ECHILD
 * with `pid` when it is no child of this process or was reaped before. Never for a child that Node has a
 * `ChildProcess` for: Node reaps that itself, by its pid too.
 */
export function reap(pid: number): ProcessExit | undefined {
  refuseGroups(pid)
  const arena = statusArena()
  const ended = libc.waitpid(pid, arena.address, WNOHANG)
  if (ended === -1) throw new NativeError('waitpid', lastErrno(), { pid })
  return ended === 0 ? undefined : parseStatus(arena.buffer.readInt32LE(0))
}

/**
 * Ends this process now (_exit(2)). `process.exit` joins the threads of libuv's pool first, and waits with them for a write(2) or
 * open(2) that blocks. No `exit` listener runs and no stream is flushed. Does not return.
 */
export function exitAtOnce(code: number): void {
  libc.exit(code)
}

/** The status word of wait(2): the signal in the low 7 bits, 0 for none; the exit code in the second byte. */
function parseStatus(status: number): ProcessExit {
  const signal = status & 0x7f
  if (signal === 0) return { code: (status >> 8) & 0xff, signal: null }
  return { code: null, signal: (signalNames.get(signal) ?? null) as NodeJS.Signals | null }
}

/** 0 and negative numbers mean groups of processes, and so would a number that wraps around to one. */
function refuseGroups(pid: number): void {
  if (!Number.isInteger(pid) || pid <= 0 || pid > LARGEST_PID) {
    throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', `pid ${pid}`)
  }
}
