/** Errors of attaching, by code. Codes are stable: match on them, never on the message. */
export const attachMessages = {
  BATON_ERR_ALREADY_ATTACHED:
    'this server is attached already: detach it first, or attach one server per backend',
  BATON_ERR_NOT_A_SERVER:
    'attach() takes a server of http, https, http2, tls or net (one that does not listen is enough)',
} as const

/** Stable codes of `AttachError`; docs/reference/errors.md has cause and remedy of each. */
export type AttachErrorCode = keyof typeof attachMessages

/** `backend.attach()` was given something that it cannot take. */
export class AttachError extends Error {
  /** What to match on. */
  readonly code: AttachErrorCode

  constructor(code: AttachErrorCode, detail?: string) {
    super(detail === undefined ? attachMessages[code] : `${attachMessages[code]}: ${detail}`)
    this.name = 'AttachError'
    this.code = code
  }
}
