import { close, type OwnedFd } from './descriptors.ts'
import { ECANCELED } from './errno.ts'
import { NativeError } from './errors.ts'
import { OPCODES } from './ring-abi.ts'
import { RING_ENTRIES, type Ring } from './ring.ts'
import { mainRing } from './main-ring.ts'

/**
 * Closes all of them, each once, with one system call where there is io_uring. Those that are closed already are left alone.
 *
 * @throws {NativeError} what close(2) said of the first that failed; the others are closed all the same
 */
export function closeAll(owned: readonly OwnedFd[]): void {
  const fds: number[] = []
  for (const each of owned) if (!each.closed) fds.push(each.release())
  const ring = fds.length > 1 ? mainRing()?.ring : undefined
  const failures = ring === undefined ? closeSingly(fds) : closeTogether(ring, fds)
  if (failures.length > 0) throw failures[0]
}

function closeSingly(fds: readonly number[]): NativeError[] {
  return fds.flatMap((fd) => failureOf(fd) ?? [])
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

function closeTogether(ring: Ring, fds: readonly number[]): NativeError[] {
  const failures: NativeError[] = []
  for (let at = 0; at < fds.length; at += RING_ENTRIES) {
    const some = fds.slice(at, at + RING_ENTRIES)
    for (const fd of some) ring.add({ opcode: OPCODES.close, fd })
    ring.run()
    for (const [index, fd] of some.entries()) {
      const result = ring.result(index)
      // Not begun, for want of memory. close(2) itself never says so.
      const failure = result === -ECANCELED ? failureOf(fd) : failed(fd, result)
      if (failure !== undefined) failures.push(failure)
    }
  }
  return failures
}

function failed(fd: number, result: number): NativeError | undefined {
  return result < 0 ? new NativeError('close', -result, { fd }) : undefined
}
