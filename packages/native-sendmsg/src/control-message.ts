import { align8, CMSGHDR_SIZE, cmsgLength, SCM_PIDFD, SCM_RIGHTS, SOL_SOCKET } from './abi.ts'

/** Contents of the control buffer of one message. The caller owns every descriptor in it. */
export interface ControlContents {
  /** From SCM_RIGHTS, in the sender's order. */
  fds: number[]
  /** Descriptors added by the kernel (the pidfd of SO_PASSPIDFD). Must be closed. */
  strays: number[]
  /** The first control message that is not SCM_RIGHTS, or whose length is impossible: "got X, wanted Y". */
  problem?: string
}

/** Writes one SCM_RIGHTS message that carries `fds` and returns the space it takes, for `msg_controllen`. */
export function writeRights(buffer: Buffer, offset: number, fds: readonly number[]): number {
  writeRightsHeader(buffer, offset, fds.length)
  fds.forEach((fd, index) => buffer.writeInt32LE(fd, offset + CMSGHDR_SIZE + index * 4))
  return CMSGHDR_SIZE + align8(fds.length * 4)
}

/** Writes only the header, for arenas where only the descriptors change from message to message. */
export function writeRightsHeader(buffer: Buffer, offset: number, count: number): void {
  buffer.writeBigUInt64LE(BigInt(cmsgLength(count * 4)), offset)
  buffer.writeInt32LE(SOL_SOCKET, offset + 8)
  buffer.writeInt32LE(SCM_RIGHTS, offset + 12)
}

/**
 * Parses `length` bytes of control messages at `offset`. A trailing partial integer of SCM_RIGHTS is
 * ignored, as the kernel does when sending. Never throws, because the descriptors found before a problem
 * need an owner.
 */
export function readControl(buffer: Buffer, offset: number, length: number): ControlContents {
  const contents: ControlContents = { fds: [], strays: [] }
  const end = offset + length
  for (let at = offset; at + CMSGHDR_SIZE <= end;) {
    const size = buffer.readUInt32LE(at)
    const level = buffer.readInt32LE(at + 8)
    const type = buffer.readInt32LE(at + 12)
    if (size < CMSGHDR_SIZE || at + size > end) {
      contents.problem ??= `got cmsg_len ${size}, wanted ${CMSGHDR_SIZE} to ${end - at}`
      return contents
    }
    const rights = level === SOL_SOCKET && type === SCM_RIGHTS
    if (!rights) {
      const wanted = `level ${SOL_SOCKET} type ${SCM_RIGHTS} (SCM_RIGHTS)`
      contents.problem ??= `got level ${level} type ${type}, wanted ${wanted}`
    }
    if (rights || (level === SOL_SOCKET && type === SCM_PIDFD)) {
      const target = rights ? contents.fds : contents.strays
      for (let fd = at + CMSGHDR_SIZE; fd + 4 <= at + size; fd += 4) target.push(buffer.readInt32LE(fd))
    }
    at += align8(size)
  }
  return contents
}
