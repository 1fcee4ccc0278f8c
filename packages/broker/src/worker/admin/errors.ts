import { type Address, errnoOf, formatAddress } from '../../config/index.ts'

/** Every error of the admin API: its stable code, and the HTTP status that it is answered with. */
export const ADMIN_ERRORS = {
  BATON_ERR_ADMIN_BAD_REQUEST: 400,
  BATON_ERR_ADMIN_UNAUTHORIZED: 401,
  BATON_ERR_ADMIN_HOST: 403,
  BATON_ERR_ADMIN_ORIGIN: 403,
  BATON_ERR_ADMIN_NO_ROUTE: 404,
  BATON_ERR_ADMIN_NO_SERVICE: 404,
  BATON_ERR_ADMIN_NO_BACKEND: 404,
  BATON_ERR_ADMIN_NO_CONNECTION: 404,
  BATON_ERR_ADMIN_METHOD: 405,
  BATON_ERR_ADMIN_TIMEOUT: 408,
  BATON_ERR_ADMIN_BODY_TOO_LARGE: 413,
  BATON_ERR_ADMIN_URI_TOO_LONG: 414,
  BATON_ERR_ADMIN_MEDIA_TYPE: 415,
  BATON_ERR_ADMIN_TOO_MANY_REQUESTS: 429,
  BATON_ERR_ADMIN_HEADERS_TOO_LARGE: 431,
  BATON_ERR_ADMIN_INTERNAL: 500,
  BATON_ERR_ADMIN_NO_MASTER: 501,
  BATON_ERR_ADMIN_STREAMS: 503,
} as const

export type AdminErrorCode = keyof typeof ADMIN_ERRORS

/** A request that is refused. Its message goes to the client as it is. */
export class AdminError extends Error {
  override readonly name = 'AdminError'
  readonly code: AdminErrorCode
  readonly statusCode: number

  constructor(code: AdminErrorCode, message: string) {
    super(message)
    this.code = code
    this.statusCode = ADMIN_ERRORS[code]
  }
}

/** The admin server could not be bound. Its message names the key and the address. */
export class AdminListenError extends Error {
  override readonly name = 'AdminListenError'
  readonly code = 'BATON_ERR_ADMIN_LISTEN'
}

const LISTEN_FAILURES = new Map([
  ['EADDRINUSE', 'is in use by another process'],
  ['EACCES', 'may not be bound by this user'],
  ['EADDRNOTAVAIL', 'is not an address of this host'],
  ['ENOENT', 'is in a folder that does not exist'],
])

function reason(error: unknown): string {
  const errno = errnoOf(error)
  const known = LISTEN_FAILURES.get(errno ?? '')
  return known === undefined ? `can not be bound: ${String(error)}` : `${known} (${errno})`
}

/** Says of a failure to bind `admin.listen` what it is. */
export function adminListenError(listen: Address, error: unknown): AdminListenError {
  return new AdminListenError(`admin.listen: ${formatAddress(listen)} ${reason(error)}`, { cause: error })
}
