import { SO_PASSRIGHTS, SOL_SOCKET } from './abi.ts'
import type { BorrowedFd } from './descriptors.ts'
import { EOPNOTSUPP, ENOPROTOOPT } from './errno.ts'
import { NativeError } from './errors.ts'
import { setOption, socketpair } from './sockets.ts'

let known: boolean | undefined

/** Whether the kernel has SO_PASSRIGHTS (Linux 6.16). */
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
 * Makes the kernel refuse descriptors sent to this Unix socket: the peer's sendmsg(2) fails with EPERM. Connections inherit
 * the setting from their listener at connect(2). Every Unix socket on which no descriptors are expected needs it: a descriptor
 * that arrives with bytes read without recvmsg(2), or is left unread at close, is closed by the kernel in this process, which
 * can block for as long as the sender chose (SO_LINGER). Sockets of other families carry no descriptors and are left unchanged.
 *
 * @returns false if the kernel cannot do this (before Linux 6.16): see `receivePlain` and `closeReachable`
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
