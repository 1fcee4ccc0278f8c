/** Codes and messages of `RegisterError`. Codes are stable: match on them, never on the message. */
export const registerMessages = {
  BATON_ERR_MASTER_UNREACHABLE: "cannot ask Baton's master to open the port",
  BATON_ERR_LISTEN_REFUSED: "Baton's master did not open the port",
} as const

export type RegisterErrorCode = keyof typeof registerMessages

/** Baton's master could not be asked for a port, or did not open it. */
export class RegisterError extends Error {
  readonly code: RegisterErrorCode

  constructor(code: RegisterErrorCode, detail: string, options?: ErrorOptions) {
    super(`${registerMessages[code]}: ${detail}`, options)
    this.name = 'RegisterError'
    this.code = code
  }
}
