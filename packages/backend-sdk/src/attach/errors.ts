/** Errors of attaching, by code. Codes are stable: match on them, never on the message. */
export const attachMessages = {
  BATON_ERR_ALREADY_ATTACHED:
    'this server is attached already: detach it first, or attach one server per backend',
} as const

export type AttachErrorCode = keyof typeof attachMessages

export class AttachError extends Error {
  readonly code: AttachErrorCode

  constructor(code: AttachErrorCode) {
    super(attachMessages[code])
    this.name = 'AttachError'
    this.code = code
  }
}
