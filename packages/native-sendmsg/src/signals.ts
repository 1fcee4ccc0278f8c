import { constants } from 'node:os'
import { lazyArena } from './arena.ts'
import { libc } from './libc.ts'

const SIG_BLOCK = 0
const SIG_SETMASK = 2
const SIG_IGN = 1

/** `sizeof(sigset_t)` of glibc and musl. The kernel reads the first 64 bits. */
const SET_SIZE = 128
const LAST_SIGNAL = 64

/**
 * Faults of the program itself, which the kernel forces on it anyway; the end of children, of which Node would learn late, and
 * job control: none of the latter ends a process.
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
 * Blocks signals in the calling thread, so that what arrives stays pending (pthread_sigmask(3)): all but faults, SIGCHLD and those
 * of job control. SIGKILL and SIGSTOP cannot be blocked.
 *
 * @returns restores the mask that was there before
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
 * Unblocks every signal in the calling thread; what was pending is delivered. To be called when there are listeners for all that
 * would end the process otherwise. Node itself leaves SIGUSR1 blocked with `--disable-sigusr1`, so that a listener never hears it.
 */
export function unblockSignals(): void {
  setMask(0n)
}

/**
 * Ignores a signal by number (signal(7)). Unlike a listener that does nothing, an ignored signal interrupts no system call, and
 * writing to a terminal from the background is allowed while SIGTTOU is ignored. Children that Node starts have the default again.
 */
export function ignoreSignal(number: number): void {
  // The C library keeps two real-time signals for itself and refuses them, which is what is wanted.
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
