/** Codes and messages of `AttachError`. Codes are stable: match on them, never on the message. */
export const attachMessages = {
  BATON_ERR_ALREADY_ATTACHED: 'already attached: detach the server first, or use one server per backend',
  BATON_ERR_NOT_A_SERVER:
    'attach() needs an http, https, http2, tls, net or gRPC server (it does not have to listen)',
} as const

/** Stable codes of `AttachError`; docs/reference/errors.md has cause and remedy of each. */
export type AttachErrorCode = keyof typeof attachMessages

/** `backend.attach()` was called with an unsuitable value. */
export class AttachError extends Error {
  /** Stable across versions: match on it. */
  readonly code: AttachErrorCode

  constructor(code: AttachErrorCode, detail?: string) {
    super(detail === undefined ? attachMessages[code] : `${attachMessages[code]}: ${detail}`)
    this.name = 'AttachError'
    this.code = code
  }
}
