/**
 * Every error that this package raises by itself, in one list. `code` is stable across versions: match on it,
 * never on the message. Errors of the system keep the code of `@baton/native-sendmsg` (`ENOENT`, ...), errors of
 * the wire format that of `@baton/backend-sdk/protocol`.
 */
export const messages = {
  BATON_ERR_NO_SERVICE: 'no service name: pass { service } to createBackend() or set BATON_SERVICE',
  BATON_ERR_INVALID_OPTION: 'invalid option for createBackend()',
  BATON_ERR_NOTHING_ATTACHED: 'no server attached: call backend.attach(server) before ready()',
  BATON_ERR_BACKEND_CLOSED: 'the backend was closed; create a new one',
  BATON_ERR_REGISTRATION_REFUSED: 'the broker refused the registration',
  BATON_ERR_REGISTRATION_TIMEOUT:
    'the broker accepted the connection but did not answer the registration in time',
  BATON_ERR_TEMPORARY_FOLDER: 'the temporary folder cannot be used',
  BATON_ERR_LANE_MISSING: 'the answer to the registration did not carry exactly one descriptor',
} as const

/** Stable codes of `BackendError`; docs/reference/errors.md has cause and remedy of each. */
export type BackendErrorCode = keyof typeof messages

/** An error that the SDK raises by itself. */
export class BackendError extends Error {
  /** What to match on. */
  readonly code: BackendErrorCode

  constructor(code: BackendErrorCode, detail?: string, options?: ErrorOptions) {
    super(detail === undefined ? messages[code] : `${messages[code]}: ${detail}`, options)
    this.name = 'BackendError'
    this.code = code
  }
}

/**
 * The broker said no to HELLO. `reason` is the broker's own code (`UidNotAllowed`, `UnknownService`, ...);
 * `retry` tells whether the same HELLO may be accepted later without anybody changing a configuration.
 */
export class RegistrationRefused extends BackendError {
  /** The broker's own code. */
  readonly reason: string
  /** Whether the same registration may be accepted later. */
  readonly retry: boolean
  /** Milliseconds before which another dial is refused as well; 0 when the broker names no such time. */
  readonly retryAfter: number

  constructor(reason: string, message: string, retry: boolean, retryAfter = 0) {
    super('BATON_ERR_REGISTRATION_REFUSED', `${reason}: ${message}`)
    this.name = 'RegistrationRefused'
    this.reason = reason
    this.retry = retry
    this.retryAfter = retryAfter
  }
}
