import { readdirSync, readlinkSync } from 'node:fs'
import { constants } from 'node:os'
import { lazyArena } from './arena.ts'
import { poll, POLLIN } from './inspect.ts'
import { libc } from './libc.ts'

const SIG_BLOCK = 0
const SIG_SETMASK = 2
const SIG_IGN = 1

/** `sizeof(sigset_t)` of glibc and musl. The kernel reads the first 64 bits. */
const SET_SIZE = 128
const LAST_SIGNAL = 64

/**
 * Faults of the program itself, which the kernel delivers even if blocked; SIGCHLD, since Node must notice exits of children
 * promptly; and job control, which does not end a process.
 */
const NEVER_BLOCKED = [
  'SIGSEGV',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGTRAP',
  'SIGABRT',
  'SIGSYS',
  'SIGCHLD',
  'SIGCONT',
  'SIGTSTP',
] as const

const sets = lazyArena(2 * SET_SIZE)

/**
 * Blocks signals in the calling thread, so that they stay pending (pthread_sigmask(3)): all except faults, SIGCHLD and job
 * control. SIGKILL and SIGSTOP cannot be blocked.
 *
 * @returns a function that restores the previous mask
 */
export function blockSignals(): () => void {
  const { buffer, address } = sets()
  buffer.fill(0xff, 0, SET_SIZE)
  for (const name of NEVER_BLOCKED) clear(buffer, constants.signals[name])
  libc.pthread_sigmask(SIG_BLOCK, address, address + SET_SIZE)
  const before = buffer.readBigUInt64LE(SET_SIZE)
  return () => setMask(before)
}

/**
 * Unblocks all signals in the calling thread; pending ones are delivered. Call it once there are listeners for every signal that
 * would otherwise end the process. With `--disable-sigusr1`, Node itself leaves SIGUSR1 blocked, and a listener never receives it.
 */
export function unblockSignals(): void {
  setMask(0n)
}

/**
 * For `executeInPlace`: whether a signal was caught whose listeners have not run. Another thread catches what this one blocks: V8's and libuv's threads
 * block hardly any. Its handler, libuv's, writes to a pipe that the event loop reads, and execve would lose that. The pipe is the one that gets
 * readable when this process sends itself SIGCHLD, which listeners have to expect at any time. Call it two turns of the event loop before.
 *
 * @returns undefined if there is no such pipe
 */
export function watchCaughtSignals(): (() => boolean) | undefined {
  process.on('SIGCHLD', ignore)
  try {
    const quiet = ownPipes().filter((fd) => !isReadable(fd))
    process.kill(process.pid, 'SIGCHLD')
    const found = quiet.find(isReadable)
    return found === undefined ? undefined : () => isReadable(found)
  } finally {
    process.off('SIGCHLD', ignore)
  }
}

function ignore(): void {}

/** Pipes of which this process has both ends. */
function ownPipes(): number[] {
  const ends = readdirSync('/proc/self/fd').flatMap((name) => {
    try {
      const target = readlinkSync(`/proc/self/fd/${name}`)
      return target.startsWith('pipe:') ? [{ fd: Number(name), target }] : []
    } catch {
      // That of the folder itself.
      return []
    }
  })
  return ends
    .filter(({ target }) => ends.filter((other) => other.target === target).length > 1)
    .map(({ fd }) => fd)
}

function isReadable(fd: number): boolean {
  return (poll(fd, POLLIN) & POLLIN) !== 0
}

/**
 * Ignores a signal by number (signal(7)). Unlike a signal with an empty listener, an ignored one interrupts no system call, and
 * ignoring SIGTTOU allows background writes to a terminal. Children that Node starts have the default action again.
 */
export function ignoreSignal(number: number): void {
  // The C library refuses the real-time signals that it reserves for itself, as intended.
  if (number >= 1 && number <= LAST_SIGNAL) libc.signal(number, SIG_IGN)
}

function setMask(mask: bigint): void {
  const { buffer, address } = sets()
  buffer.fill(0, 0, SET_SIZE)
  buffer.writeBigUInt64LE(mask, 0)
  libc.pthread_sigmask(SIG_SETMASK, address, 0)
}

function clear(set: Buffer, signal: number): void {
  const bit = signal - 1
  const byte = bit >> 3
  set.writeUInt8(set.readUInt8(byte) & ~(1 << (bit & 7)), byte)
}
