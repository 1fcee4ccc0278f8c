import { MSG_DONTWAIT, MSG_PEEK } from './abi.ts'
import { Arena } from './arena.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EAGAIN } from './errno.ts'
import { NativeError } from './errors.ts'
import { mainRing } from './main-ring.ts'
import { OPCODES } from './ring-abi.ts'
import { isNotStarted, type Ring, submission } from './ring.ts'
import { peek } from './stream.ts'

/** Maximum sockets per call. */
export const MAX_PEEKS = 64
/** Room for the bytes of each. What does not fit is looked at again by itself. */
const SLOT = 4096

/** Bytes, empty at EOF; undefined if there are none yet; or why the receive failed. */
export type Peeked = Buffer | undefined | NativeError

/**
 * Like `peek`, for up to `MAX_PEEKS` sockets; with io_uring, in one system call. The bytes are valid until the next call: they may be
 * views of memory that it overwrites.
 */
export function peekMany(fds: readonly BorrowedFd[], max: number): Peeked[] {
  const ring = mainRing()?.ring
  return ring === undefined ? fds.map((fd) => peekSingly(fd, max)) : peekTogether(ring, fds, max)
}

function peekSingly(fd: BorrowedFd, max: number): Peeked {
  try {
    return peek(fd, max)
  } catch (error) {
    if (error instanceof NativeError) return error
    throw error
  }
}

/** Created on first use. */
let memory: { readonly slots: readonly Buffer[]; readonly address: number } | undefined

function slots(): NonNullable<typeof memory> {
  if (memory !== undefined) return memory
  const { buffer, address } = new Arena(MAX_PEEKS * SLOT)
  const all = Array.from({ length: MAX_PEEKS }, (_, index) =>
    buffer.subarray(index * SLOT, (index + 1) * SLOT),
  )
  return (memory = { slots: all, address })
}

/** Reused for all sockets, because it is copied into the ring. */
const receive = submission({
  opcode: OPCODES.receive,
  fd: -1,
  // Without waiting, also on a blocking socket: nothing stays in flight.
  operationFlags: MSG_PEEK | MSG_DONTWAIT,
})

function peekTogether(ring: Ring, fds: readonly BorrowedFd[], max: number): Peeked[] {
  const { slots: all, address } = slots()
  receive.length = Math.min(max, SLOT)
  for (const [index, fd] of fds.entries()) {
    receive.fd = fd
    receive.address = address + index * SLOT
    ring.add(receive)
  }
  ring.run()
  return fds.map((fd, index) => {
    const count = ring.result(index)
    // There may be more than fits; or it was not started.
    if ((count === SLOT && max > SLOT) || isNotStarted(count)) return peekSingly(fd, max)
    if (count >= 0) return all[index]?.subarray(0, count)
    return count === -EAGAIN ? undefined : new NativeError('recv', -count, { fd })
  })
}
