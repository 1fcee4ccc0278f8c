import { close, type OwnedFd } from './descriptors.ts'
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
  if (ring === undefined) closeSingly(fds)
  else
    for (let at = 0; at < fds.length; at += RING_ENTRIES)
      closeTogether(ring, fds.slice(at, at + RING_ENTRIES))
}

function closeSingly(fds: readonly number[]): void {
  let failure: unknown
  for (const fd of fds) {
    try {
      close(fd)
    } catch (error) {
      failure ??= error
    }
  }
  if (failure !== undefined) throw failure
}

function closeTogether(ring: Ring, fds: readonly number[]): void {
  for (const fd of fds) ring.add({ opcode: OPCODES.close, fd })
  ring.run()
  const failed = fds.findIndex((_fd, index) => ring.result(index) < 0)
  if (failed !== -1) throw new NativeError('close', -ring.result(failed), { fd: fds[failed] as number })
}
