import {
  cmsgSpace,
  MSG_CMSG_CLOEXEC,
  MSG_CTRUNC,
  MSG_DONTWAIT,
  MSG_NOSIGNAL,
  MSG_TRUNC,
  SCM_MAX_FD,
} from './abi.ts'
import { readControl, writeRights } from './control-message.ts'
import { close, OwnedFd, type BorrowedFd } from './descriptors.ts'
import { EAGAIN, EINTR, EINVAL } from './errno.ts'
import { BatonNativeError, NativeError, ShortSendError } from './errors.ts'
import { lastErrno, libc } from './libc.ts'
import { MessageArena } from './message-arena.ts'

export interface OutgoingMessage {
  /** One message, whole or in pieces, which are concatenated. */
  bytes: Uint8Array | readonly Uint8Array[]
  /** At most 253; more are EINVAL. The caller keeps them. Sending descriptors requires at least one byte of data. */
  fds?: readonly BorrowedFd[] | undefined
}

export interface IncomingMessage {
  /** A copy, owned by the caller. Empty without descriptors is EOF (or an empty seqpacket message). */
  bytes: Buffer
  /** CLOEXEC from birth, at most `maxFds`; the caller owns them. */
  fds: OwnedFd[]
  /** A seqpacket message was longer than `size`; the rest is lost. */
  truncated: boolean
  /** Descriptors were lost on arrival, because the process has reached its descriptor limit (MSG_CTRUNC). */
  controlTruncated: boolean
  /** Number of descriptors beyond `maxFds`; they have been closed. */
  surplus: number
}

const START_SIZE = 4096
/**
 * Room for all descriptors that one message can carry, and for what the receiver's socket options may add
 * (SO_PASSCRED, SO_PASSPIDFD, SO_PASSSEC).
 */
const CONTROL_SIZE = cmsgSpace(SCM_MAX_FD * 4) + cmsgSpace(12) + cmsgSpace(4) + cmsgSpace(256)

let outgoing: MessageArena | undefined
let incoming: MessageArena | undefined

/** Grows to the next power of two, so that large messages cost one allocation. */
function fitting(arena: MessageArena | undefined, size: number): MessageArena {
  if (arena !== undefined && arena.payloadSize >= size) return arena
  return new MessageArena(1, Math.max(START_SIZE, 2 ** Math.ceil(Math.log2(size))), CONTROL_SIZE)
}

/**
 * Sends one message with one sendmsg(2), without blocking or raising SIGPIPE; returns its length in
 * bytes. The pieces are copied into one block: getting an address through the FFI costs more than the copy,
 * and a small typed array may move.
 *
 * Throws NativeError (EAGAIN, EPIPE, ETOOMANYREFS...), or ShortSendError if a stream accepted only a part;
 * the descriptors may then have been sent.
 */
export function sendMessage(fd: BorrowedFd, message: OutgoingMessage): number {
  const pieces = message.bytes instanceof Uint8Array ? [message.bytes] : message.bytes
  const fds = message.fds ?? []
  const size = pieces.reduce((sum, piece) => sum + piece.length, 0)
  if (fds.length > SCM_MAX_FD) throw new NativeError('sendmsg', EINVAL, { fd })
  if (fds.length > 0 && size === 0) {
    // A stream would send nothing and silently drop the descriptors.
    throw new BatonNativeError('BATON_ERR_INVALID_ARGUMENT', 'descriptors need at least one byte of data')
  }
  const arena = (outgoing = fitting(outgoing, size))
  let at = arena.payloadOffset(0)
  for (const piece of pieces) {
    arena.buffer.set(piece, at)
    at += piece.length
  }
  arena.setPayloadLength(0, size)
  arena.setControlLength(0, fds.length === 0 ? 0 : writeRights(arena.buffer, arena.controlOffset(0), fds))
  const sent = retried(() => libc.sendmsg(fd, arena.headerAddress(0), MSG_DONTWAIT | MSG_NOSIGNAL))
  if (sent < 0) throw new NativeError('sendmsg', -sent, { fd })
  if (sent < size) throw new ShortSendError(fd, sent, size)
  return sent
}

/**
 * Receives one message, or up to `size` bytes from a stream; undefined if nothing is available. The kernel
 * ends a read from a stream after bytes that carry descriptors, so descriptors of two sends never mix.
 *
 * Throws NativeError, or BATON_ERR_CONTROL_INVALID for a control message other than SCM_RIGHTS, after closing
 * every descriptor that arrived with it.
 */
export function receiveMessage(
  fd: BorrowedFd,
  { size, maxFds }: { size: number; maxFds: number },
): IncomingMessage | undefined {
  const arena = (incoming = fitting(incoming, size))
  arena.setPayloadLength(0, size)
  arena.setControlLength(0, arena.controlSize)
  const count = retried(() => libc.recvmsg(fd, arena.headerAddress(0), MSG_DONTWAIT | MSG_CMSG_CLOEXEC))
  if (count === -EAGAIN) return undefined
  if (count < 0) throw new NativeError('recvmsg', -count, { fd })
  const { fds, strays, problem } = readControl(arena.buffer, arena.controlOffset(0), arena.controlLength(0))
  for (const stray of strays) close(stray)
  if (problem !== undefined) {
    for (const received of fds) close(received)
    throw new BatonNativeError('BATON_ERR_CONTROL_INVALID', problem)
  }
  const surplus = fds.splice(maxFds)
  for (const extra of surplus) close(extra)
  const start = arena.payloadOffset(0)
  const flags = arena.flags(0)
  return {
    bytes: Buffer.from(arena.buffer.subarray(start, start + count)),
    fds: fds.map((received) => new OwnedFd(received)),
    truncated: (flags & MSG_TRUNC) !== 0,
    controlTruncated: (flags & MSG_CTRUNC) !== 0,
    surplus: surplus.length,
  }
}

/** The result of `call`, or -errno. Retried if a signal interrupts it. */
function retried(call: () => number): number {
  for (;;) {
    const result = call()
    if (result !== -1) return result
    const errno = lastErrno()
    if (errno !== EINTR) return -errno
  }
}
