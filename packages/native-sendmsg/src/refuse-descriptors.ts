import { SO_PASSRIGHTS, SOL_SOCKET } from './abi.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EOPNOTSUPP, ENOPROTOOPT } from './errno.ts'
import { NativeError } from './errors.ts'
import { setOption, socketpair } from './sockets.ts'

let known: boolean | undefined

/** Whether this kernel has SO_PASSRIGHTS (Linux 6.16). */
export function descriptorsCanBeRefused(): boolean {
  if (known !== undefined) return known
  const [one, other] = socketpair('stream')
  try {
    return (known = refused(one.fd))
  } finally {
    one.close()
    other.close()
  }
}

/**
 * Makes the kernel refuse descriptors that are sent to this Unix socket: sendmsg(2) of the peer answers EPERM. Connections
 * inherit it from their listener at connect(2). Where no descriptor is wanted, a socket needs this: what arrives with bytes
 * that are read without recvmsg(2), or is left unread at close, is closed by the kernel in this process, and that may block for
 * as long as the sender likes (SO_LINGER). Sockets of other families carry no descriptors and are left alone.
 *
 * @returns false where the kernel cannot (before Linux 6.16): see `receivePlain` and `closeReachable`
 */
export function refuseDescriptors(fd: BorrowedFd): boolean {
  if (known === false) return false
  return (known = refused(fd))
}

function refused(fd: BorrowedFd): boolean {
  try {
    setOption(fd, SOL_SOCKET, SO_PASSRIGHTS, 0)
    return true
  } catch (error) {
    if (error instanceof NativeError && error.errno === ENOPROTOOPT) return false
    if (error instanceof NativeError && error.errno === EOPNOTSUPP) return true
    throw error
  }
}
