import type { Frame } from './frames.ts'

export type ProtocolErrorCode =
  | 'BATON_ERR_FRAME_TOO_LARGE'
  | 'BATON_ERR_FRAME_UNKNOWN_TYPE'
  | 'BATON_ERR_FRAME_MALFORMED'
  | 'BATON_ERR_FRAME_OUT_OF_ORDER'

/**
 * The peer broke the protocol, and the control connection can not go on. The message names frame and
 * member, never a value: a value may be a token or a secret.
 */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'
  readonly code: ProtocolErrorCode
  /**
   * Whole frames that stood before the fault in the bytes of the `push` that threw. They were said, and
   * are to be handled: an ACK among them is an ACK.
   */
  frames: Frame[] = []

  constructor(code: ProtocolErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

export type FrameEncodeErrorCode = 'BATON_ERR_FRAME_OVER_LIMIT' | 'BATON_ERR_FRAME_NOT_ENCODABLE'

/** The caller asked for a frame that can not be put on the wire: a fault on this side, not the peer's. */
export class FrameEncodeError extends Error {
  override readonly name = 'FrameEncodeError'
  readonly code: FrameEncodeErrorCode

  constructor(code: FrameEncodeErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** Not the canonical text (26 characters, upper case) or not the 16 bytes of a ULID. */
export class InvalidUlidError extends TypeError {
  override readonly name = 'InvalidUlidError'
  readonly code = 'BATON_ERR_INVALID_ULID'
}

/** What was read where a relay should begin is no header of the PROXY protocol, version 2. */
export class ProxyHeaderError extends Error {
  readonly code = 'BATON_ERR_PROXY_HEADER'

  constructor(detail: string) {
    super(`not a PROXY protocol v2 header: ${detail}`)
    this.name = 'ProxyHeaderError'
  }
}
