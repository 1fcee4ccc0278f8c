/**
 * Codes and messages of `BackendError`. A `code` is stable across versions: match on it, never on the message. System errors
 * keep the code of `@baton/native-sendmsg` (`ENOENT`, ...), errors of the wire format that of `@baton/backend-sdk/protocol`.
 */
export const messages = {
  BATON_ERR_NO_SERVICE: 'no service name: pass { service } to createBackend() or set BATON_SERVICE',
  BATON_ERR_INVALID_OPTION: 'invalid option',
  BATON_ERR_UNSUPPORTED_LIBRARY: 'this version of a library is not supported',
  BATON_ERR_UNSUPPORTED_RUNTIME:
    'this runtime cannot adopt connections; let it listen, and name it in `upstreams`',
  BATON_ERR_NOTHING_ATTACHED: 'no server attached: call backend.attach(server) before ready()',
  BATON_ERR_BACKEND_CLOSED: 'the backend is draining or closed; create a new one',
  BATON_ERR_REGISTRATION_REFUSED: 'the broker refused the registration',
  BATON_ERR_REGISTRATION_TIMEOUT:
    'the broker accepted the connection but did not answer the registration in time',
  BATON_ERR_TEMPORARY_FOLDER: 'the temporary folder cannot be used',
  BATON_ERR_STATE_FAILED: '`state` threw; the connection stays here',
  BATON_ERR_STATE_INVALID: '`state` did not return JSON; the connection stays here',
  BATON_ERR_STATE_TOO_LARGE: 'too much to hand back with one connection; it stays here',
  BATON_ERR_RESUME_FAILED: 'a connection could not be resumed and was closed',
  BATON_ERR_ANSWER_DIFFERS:
    'this process answers the request of a connection differently from the one before; it was closed',
  BATON_ERR_LANE_MISSING: 'the answer to the registration did not carry exactly one descriptor',
} as const

/** Stable codes of `BackendError`; docs/reference/errors.md has cause and remedy of each. */
export type BackendErrorCode = keyof typeof messages

/** An error raised by the SDK itself. */
export class BackendError extends Error {
  /** Stable across versions: match on it. */
  readonly code: BackendErrorCode

  constructor(code: BackendErrorCode, detail?: string, options?: ErrorOptions) {
    super(detail === undefined ? messages[code] : `${messages[code]}: ${detail}`, options)
    this.name = 'BackendError'
    this.code = code
  }
}

/**
 * The broker refused the registration. `reason` is the broker's code (`UidNotAllowed`, `UnknownService`, ...); docs/reference/errors.md
 * lists them.
 */
export class RegistrationRefused extends BackendError {
  /** The broker's code, such as `UnknownService`. */
  readonly reason: string
  /** Whether the same registration may be accepted later without a change of configuration. */
  readonly retry: boolean
  /** Do not dial again for this many milliseconds: until then the broker refuses. 0 if the broker gives no such time. */
  readonly retryAfter: number

  constructor(reason: string, message: string, retry: boolean, retryAfter = 0) {
    super('BATON_ERR_REGISTRATION_REFUSED', `${reason}: ${message}`)
    this.name = 'RegistrationRefused'
    this.reason = reason
    this.retry = retry
    this.retryAfter = retryAfter
  }
}
