/** Errors of listening through Baton's master, by code. Codes are stable: match on them, never on the message. */
export const registerMessages = {
  BATON_ERR_MASTER_UNREACHABLE: "Baton's master, which opens the app's ports, does not answer",
  BATON_ERR_LISTEN_REFUSED: "Baton's master did not open the port",
} as const

export type RegisterErrorCode = keyof typeof registerMessages

export class RegisterError extends Error {
  readonly code: RegisterErrorCode

  constructor(code: RegisterErrorCode, detail: string, options?: ErrorOptions) {
    super(`${registerMessages[code]}: ${detail}`, options)
    this.name = 'RegisterError'
    this.code = code
  }
}
