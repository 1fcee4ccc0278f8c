import { constants as os } from 'node:os'

/** Linux errors that can occur when passing descriptors but are missing from Node's constants (errno(3)). */
const missing: readonly (readonly [number, string])[] = [
  [108, 'ESHUTDOWN'],
  [109, 'ETOOMANYREFS'],
]

/** Names of errno values. On Linux, 11 and 95 have two names each; like sendmsg(2), we use EAGAIN and EOPNOTSUPP. */
export const errnoNames: ReadonlyMap<number, string> = new Map([
  ...missing,
  ...Object.entries(os.errno)
    .filter(([name]) => name !== 'EWOULDBLOCK' && name !== 'ENOTSUP')
    .map(([name, number]): [number, string] => [number, name]),
])

export const EINTR = os.errno.EINTR
export const EBADF = os.errno.EBADF
export const EAGAIN = os.errno.EAGAIN
export const EINVAL = os.errno.EINVAL
export const ENOTSOCK = os.errno.ENOTSOCK
export const EMSGSIZE = os.errno.EMSGSIZE
export const EPROTO = os.errno.EPROTO
export const ENOTCONN = os.errno.ENOTCONN
export const ECONNABORTED = os.errno.ECONNABORTED
export const ECONNRESET = os.errno.ECONNRESET
export const ENAMETOOLONG = os.errno.ENAMETOOLONG
export const ENOPROTOOPT = os.errno.ENOPROTOOPT
export const EOPNOTSUPP = os.errno.EOPNOTSUPP
export const ECANCELED = os.errno.ECANCELED
export const ESTALE = os.errno.ESTALE
