import {
  encodeAcks,
  encodeGivenBack,
  encodeHandBacks,
  encodeNacks,
  encodeOffers,
  encodeRevokes,
  encodeSettled,
  encodeTaken,
} from './batch-encoder.ts'
import { FrameEncodeError } from './errors.ts'
import type { BatchFrame, Frame } from './frames.ts'
import { encodeJsonFrame } from './json-frames.ts'

/**
 * Encodes one frame for the control connection, including its length field. The caller owns the buffer.
 * @throws {FrameEncodeError} `BATON_ERR_FRAME_OVER_LIMIT` if it is too large for one frame (see {@link encodeBatch}),
 * `BATON_ERR_FRAME_NOT_ENCODABLE` if a member cannot be encoded or a batch is empty.
 */
export function encodeFrame(frame: Frame): Buffer {
  if (frame.type === 'offer') return encodeOffers(frame.offers)
  if (frame.type === 'ack') return encodeAcks(frame.acks)
  if (frame.type === 'nack') return encodeNacks(frame.nacks)
  if (frame.type === 'revoke') return encodeRevokes(frame.sequences)
  if (frame.type === 'handback') return encodeHandBacks(frame.entries)
  if (frame.type === 'taken') return encodeTaken(frame.sequences)
  if (frame.type === 'given_back') return encodeGivenBack(frame.entries)
  if (frame.type === 'settled') return encodeSettled(frame.entries)
  return encodeJsonFrame(frame)
}

/**
 * Encodes a batch of any size as one or more frames, in order. An empty batch gives no frame.
 * @throws {FrameEncodeError} `BATON_ERR_FRAME_NOT_ENCODABLE` if an entry cannot be encoded.
 */
export function encodeBatch(frame: BatchFrame): Buffer[] {
  if (frame.type === 'offer') return encodeInParts(frame.offers, encodeOffers)
  if (frame.type === 'ack') return encodeInParts(frame.acks, encodeAcks)
  if (frame.type === 'nack') return encodeInParts(frame.nacks, encodeNacks)
  if (frame.type === 'revoke') return encodeInParts(frame.sequences, encodeRevokes)
  if (frame.type === 'handback') return encodeInParts(frame.entries, encodeHandBacks)
  if (frame.type === 'taken') return encodeInParts(frame.sequences, encodeTaken)
  if (frame.type === 'given_back') return encodeInParts(frame.entries, encodeGivenBack)
  return encodeInParts(frame.entries, encodeSettled)
}

/** The bytes of a frame, or of the frames in which a batch that is too large for one is sent. @throws {FrameEncodeError} as `encodeFrame` */
export function encodeWhole(frame: Frame): Buffer {
  try {
    return encodeFrame(frame)
  } catch (error) {
    if (!isOverLimit(error) || !isBatch(frame)) throw error
    return Buffer.concat(encodeBatch(frame))
  }
}

function isBatch(frame: Frame): frame is BatchFrame {
  return (
    'entries' in frame || 'offers' in frame || 'acks' in frame || 'nacks' in frame || 'sequences' in frame
  )
}

function isOverLimit(error: unknown): boolean {
  return error instanceof FrameEncodeError && error.code === 'BATON_ERR_FRAME_OVER_LIMIT'
}

/** Halves a batch that does not fit. This terminates because a single entry always fits: its parts are limited. */
function encodeInParts<T>(entries: readonly T[], encode: (entries: readonly T[]) => Buffer): Buffer[] {
  if (entries.length === 0) return []
  try {
    return [encode(entries)]
  } catch (error) {
    if (!isOverLimit(error)) throw error
    const middle = Math.ceil(entries.length / 2)
    return [
      ...encodeInParts(entries.slice(0, middle), encode),
      ...encodeInParts(entries.slice(middle), encode),
    ]
  }
}
