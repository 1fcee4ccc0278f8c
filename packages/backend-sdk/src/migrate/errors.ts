/** Codes and messages of `MigrationError`. Codes are stable: match on them, never on the message. */
export const migrationMessages = {
  BATON_ERR_STATE_FAILED: '`state` threw; the connection stays here',
  BATON_ERR_STATE_INVALID: '`state` did not return JSON; the connection stays here',
  BATON_ERR_STATE_TOO_LARGE: 'too much to hand back with one connection; it stays here',
  BATON_ERR_RESUME_FAILED: 'a connection could not be resumed and was closed',
  BATON_ERR_ANSWER_DIFFERS:
    'this process answers the request of a connection differently from the one before; it was closed',
} as const

/** Stable codes of `MigrationError`; docs/reference/errors.md has cause and remedy of each. */
export type MigrationErrorCode = keyof typeof migrationMessages

/** A connection could not be handed back, or not be resumed. It is logged: no call of the app could throw it. */
export class MigrationError extends Error {
  /** Stable across versions: match on it. */
  readonly code: MigrationErrorCode

  constructor(code: MigrationErrorCode, detail?: string, options?: ErrorOptions) {
    super(detail === undefined ? migrationMessages[code] : `${migrationMessages[code]}: ${detail}`, options)
    this.name = 'MigrationError'
    this.code = code
  }
}
