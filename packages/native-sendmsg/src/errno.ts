import { constants as os } from 'node:os'

/**
 * Linux errors that Node's table of constants leaves out, and that passing descriptors can meet (errno(3)).
 */
const missing: readonly (readonly [number, string])[] = [
  [108, 'ESHUTDOWN'],
  [109, 'ETOOMANYREFS'],
]

/**
 * errno to its name. Two names share 11 and 95 on Linux; we use EAGAIN and EOPNOTSUPP, which sendmsg(2)
 * uses.
 */
export const errnoNames: ReadonlyMap<number, string> = new Map([
  ...missing,
  ...Object.entries(os.errno)
    .filter(([name]) => name !== 'EWOULDBLOCK' && name !== 'ENOTSUP')
    .map(([name, number]): [number, string] => [number, name]),
])

export const EINTR = os.errno.EINTR
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
