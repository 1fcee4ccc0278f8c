import { SO_LINGER, SOL_SOCKET } from './abi.ts'
import { lazyArena } from './arena.ts'
import { type BorrowedFd, close, type OwnedFd } from './descriptors.ts'
import { ECANCELED } from './errno.ts'
import { NativeError } from './errors.ts'
import { closeOnThread, libc } from './libc.ts'
import { mainRing } from './main-ring.ts'
import { ASYNC, COMMAND_SETSOCKOPT, HARDLINK, OPCODES, SKIP_SUCCESS } from './ring-abi.ts'
import { RING_ENTRIES, type Ring, submission } from './ring.ts'

/** `struct linger` (`l_onoff`, `l_linger`): off, and on with a timeout of 0, which makes the last close(2) send a reset. */
const lingerOff = lazyArena(8)
const lingerReset = lazyArena(8)
const LINGER_SIZE = 8

/**
 * Closes all descriptors, skipping closed ones; with io_uring, in one system call per 64. Never waits for unsent bytes: SO_LINGER
 * belongs to the open file, so any process that ever had a duplicate may have set it, and close(2) of the last descriptor would then
 * block for as long as that process chose, whatever O_NONBLOCK says. So it is cleared immediately before each close. The kernel still
 * sends unsent data, as after any other close.
 *
 * @throws {NativeError} the first failure of close(2); the other descriptors are closed anyway
 */
export function closeAll(owned: readonly OwnedFd[]): void {
  closeAfter(lingerOff().address, owned)
}

/** Like `closeAll`, but a TCP socket that no other process holds is reset (RST) instead of closed normally (FIN). */
export function resetAll(owned: readonly OwnedFd[]): void {
  const linger = lingerReset()
  linger.words[0] = 1
  closeAfter(linger.address, owned)
}

function closeAfter(linger: number, owned: readonly OwnedFd[]): void {
  const fds: number[] = []
  for (const each of owned) if (!each.closed) fds.push(each.release())
  if (fds.length === 0) return
  const ring = mainRing()?.ring
  const failures = ring === undefined ? closeSingly(fds, linger) : closeTogether(ring, fds, linger)
  if (failures.length > 0) throw failures[0]
}

/**
 * Clears SO_LINGER, so that no holder of the open file waits for unsent bytes when closing it. Does nothing if `fd` is not a socket.
 */
export function clearLinger(fd: BorrowedFd): void {
  setLinger(fd, lingerOff().address)
}

/** Fails silently if `fd` is not a socket; then there is nothing to linger for. */
function setLinger(fd: BorrowedFd, linger: number): void {
  libc.trySetsockopt(fd, SOL_SOCKET, SO_LINGER, linger, LINGER_SIZE)
}

/**
 * Closes, on another thread, a descriptor of unknown type received from another process: closing a FUSE file or a terminal can block
 * too, and so can closing a Unix socket whose queue contains such descriptors. A failure is not reported.
 *
 * SO_LINGER is cleared by a system call of its own. As the first half of a chain it would hold a reference to the open file, which this
 * thread drops when it collects the completion: if the close had come first, all of it would happen here.
 */
export function closeAside(owned: OwnedFd): void {
  const fd = owned.release()
  setLinger(fd, lingerOff().address)
  const ring = mainRing()?.ring
  if (ring === undefined) return void closeOnThread(fd)
  backgroundClose.fd = fd
  try {
    ring.submitChain([backgroundClose])
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
    // Out of memory.
    void closeOnThread(fd)
  }
}

function closeSingly(fds: readonly number[], linger: number): NativeError[] {
  return fds.flatMap((fd) => {
    setLinger(fd, linger)
    return failureOf(fd) ?? []
  })
}

function failureOf(fd: number): NativeError | undefined {
  try {
    close(fd)
    return undefined
  } catch (error) {
    if (error instanceof NativeError) return error
    throw error
  }
}

/** Sets SO_LINGER, then closes, whether or not the first succeeded. Reused for all descriptors, because they are copied into the ring. */
const linger = submission({
  opcode: OPCODES.uringCommand,
  fd: -1,
  flags: HARDLINK,
  offset: COMMAND_SETSOCKOPT,
  // `level` and `optname` share the field of the address.
  address: SOL_SOCKET + SO_LINGER * 0x1_0000_0000,
  optionLength: LINGER_SIZE,
})
const inlineClose = submission({ opcode: OPCODES.close, fd: -1 })
const backgroundClose = submission({ opcode: OPCODES.close, fd: -1, flags: ASYNC | SKIP_SUCCESS })

function closeTogether(ring: Ring, fds: readonly number[], value: number): NativeError[] {
  linger.optionValue = value
  const failures: NativeError[] = []
  const perBatch = RING_ENTRIES / 2
  for (let at = 0; at < fds.length; at += perBatch) {
    const batch = fds.slice(at, at + perBatch)
    for (const fd of batch) {
      linger.fd = fd
      inlineClose.fd = fd
      ring.add(linger)
      ring.add(inlineClose)
    }
    ring.run()
    for (const [index, fd] of batch.entries()) {
      const result = ring.result(2 * index + 1)
      // Not started, for lack of memory. close(2) itself never fails with ECANCELED.
      const failure = result === -ECANCELED ? failureOf(fd) : failed(fd, result)
      if (failure !== undefined) failures.push(failure)
    }
  }
  return failures
}

function failed(fd: number, result: number): NativeError | undefined {
  return result < 0 ? new NativeError('close', -result, { fd }) : undefined
}
