import type { Frame } from './frames.ts'

export type ProtocolErrorCode =
  | 'BATON_ERR_FRAME_TOO_LARGE'
  | 'BATON_ERR_FRAME_UNKNOWN_TYPE'
  | 'BATON_ERR_FRAME_MALFORMED'
  | 'BATON_ERR_FRAME_OUT_OF_ORDER'

/**
 * The peer broke the protocol, and the control connection cannot continue. The message names frame and member, but never
 * a value, which could be a token or a secret.
 */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError'
  readonly code: ProtocolErrorCode
  /**
   * Whole frames before the fault in the bytes of the `push` that threw. They are valid and must be handled: an ACK among
   * them counts.
   */
  frames: Frame[] = []

  constructor(code: ProtocolErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

export type FrameEncodeErrorCode = 'BATON_ERR_FRAME_OVER_LIMIT' | 'BATON_ERR_FRAME_NOT_ENCODABLE'

/** The caller passed a frame that cannot be encoded: an error on this side, not the peer's. */
export class FrameEncodeError extends Error {
  override readonly name = 'FrameEncodeError'
  readonly code: FrameEncodeErrorCode

  constructor(code: FrameEncodeErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

/** A text that is not a canonical ULID (26 characters, upper case), or not the 16 bytes of one. */
export class InvalidUlidError extends TypeError {
  override readonly name = 'InvalidUlidError'
  readonly code = 'BATON_ERR_INVALID_ULID'
}

/** The bytes are not a PROXY protocol v2 header. */
export class ProxyHeaderError extends Error {
  readonly code = 'BATON_ERR_PROXY_HEADER'

  constructor(detail: string) {
    super(`not a PROXY protocol v2 header: ${detail}`)
    this.name = 'ProxyHeaderError'
  }
}
