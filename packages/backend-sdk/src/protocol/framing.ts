import { FrameEncodeError } from './errors.ts'
import { FrameType, POST_WELCOME_LIMIT, PRE_WELCOME_LIMIT } from './frames.ts'

/** Size of the length field, whose value is the size of what follows: type byte and payload. */
export const LENGTH_SIZE = 4
/** Length field and type byte: where the payload begins. */
export const PAYLOAD_OFFSET = LENGTH_SIZE + 1

// The receiver reads these before it raises its limit.
const BEFORE_WELCOME: ReadonlySet<number> = new Set([FrameType.HELLO, FrameType.WELCOME, FrameType.REFUSED])

/**
 * Allocates a frame with its length and type written, and room for `payloadSize` bytes at {@link PAYLOAD_OFFSET}.
 * @throws {FrameEncodeError} `BATON_ERR_FRAME_OVER_LIMIT` if the receiver would refuse its length
 */
export function startFrame(code: number, payloadSize: number): Buffer {
  const length = 1 + payloadSize
  const limit = BEFORE_WELCOME.has(code) ? PRE_WELCOME_LIMIT : POST_WELCOME_LIMIT
  if (length > limit) {
    throw new FrameEncodeError(
      'BATON_ERR_FRAME_OVER_LIMIT',
      `a frame of ${length} bytes is over its limit of ${limit}`,
    )
  }
  const frame = Buffer.allocUnsafe(LENGTH_SIZE + length)
  frame.writeUInt32LE(length, 0)
  frame[LENGTH_SIZE] = code
  return frame
}
