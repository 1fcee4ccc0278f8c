/** Every error of the admin API: its stable code and its HTTP status. */
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
  BATON_ERR_ADMIN_OTHER_BROKER: 421,
  BATON_ERR_ADMIN_TOO_MANY_REQUESTS: 429,
  BATON_ERR_ADMIN_HEADERS_TOO_LARGE: 431,
  BATON_ERR_ADMIN_INTERNAL: 500,
  BATON_ERR_ADMIN_NO_MASTER: 501,
  BATON_ERR_ADMIN_LEAVING: 503,
  BATON_ERR_ADMIN_STREAMS: 503,
} as const

export type AdminErrorCode = keyof typeof ADMIN_ERRORS

/** Refuses a request. The message is sent to the client unchanged. */
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
