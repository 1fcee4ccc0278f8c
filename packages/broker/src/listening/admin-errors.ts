import { type Address, formatAddress } from '../config/address.ts'
import { errnoOf } from '../config/error.ts'

/** The admin server's socket cannot be opened. The message names the key and the address. */
export class AdminListenError extends Error {
  override readonly name = 'AdminListenError'
  readonly code = 'BATON_ERR_ADMIN_LISTEN'
}

const LISTEN_FAILURES = new Map([
  ['EADDRINUSE', 'is in use by another process'],
  ['EACCES', 'cannot be bound by this user'],
  ['EADDRNOTAVAIL', 'is not an address of this host'],
  ['ENOENT', 'is in a folder that does not exist'],
])

function reason(error: unknown): string {
  const errno = errnoOf(error)
  const known = LISTEN_FAILURES.get(errno ?? '')
  return known === undefined ? `cannot be bound: ${String(error)}` : `${known} (${errno})`
}

/** Describes a failure to bind `admin.listen`. */
export function adminListenError(listen: Address, error: unknown): AdminListenError {
  return new AdminListenError(`admin.listen: ${formatAddress(listen)} ${reason(error)}`, { cause: error })
}
