import {
  decodeAcks,
  decodeGivenBack,
  decodeHandBacks,
  decodeNacks,
  decodeOffers,
  decodeRevokes,
  decodeSettled,
  decodeTaken,
} from './batch-decoder.ts'
import { ProtocolError } from './errors.ts'
import { FIRST_SKIPPABLE_TYPE, type Frame, FrameType } from './frames.ts'
import { LENGTH_SIZE } from './framing.ts'
import { decodeJsonPayload } from './json-frames.ts'

const MAX_U32 = 0xffff_ffff
const NOTHING = Buffer.alloc(0)
/** First allocation for an incomplete frame. It grows with the bytes that arrive, not with the announced length. */
const FIRST_CAPACITY = 512

const DECODERS: ReadonlyMap<number, (payload: Buffer) => Frame> = new Map<number, (payload: Buffer) => Frame>(
  [
    [FrameType.HELLO, (payload) => decodeJsonPayload('hello', payload)],
    [FrameType.WELCOME, (payload) => decodeJsonPayload('welcome', payload)],
    [FrameType.REFUSED, (payload) => decodeJsonPayload('refused', payload)],
    [FrameType.RECONNECT, (payload) => decodeJsonPayload('reconnect', payload)],
    [FrameType.DRAIN, (payload) => decodeJsonPayload('drain', payload)],
    [FrameType.DRAINED, (payload) => decodeJsonPayload('drained', payload)],
    [FrameType.HEARTBEAT, (payload) => decodeJsonPayload('heartbeat', payload)],
    [FrameType.STATS, (payload) => decodeJsonPayload('stats', payload)],
    [FrameType.OFFER, (payload) => ({ type: 'offer', offers: decodeOffers(payload) })],
    [FrameType.ACK, (payload) => ({ type: 'ack', acks: decodeAcks(payload) })],
    [FrameType.NACK, (payload) => ({ type: 'nack', nacks: decodeNacks(payload) })],
    [FrameType.REVOKE, (payload) => ({ type: 'revoke', sequences: decodeRevokes(payload) })],
    [FrameType.REBALANCE, (payload) => decodeJsonPayload('rebalance', payload)],
    [FrameType.RESUMES, (payload) => decodeJsonPayload('resumes', payload)],
    [FrameType.TICKET_KEYS, (payload) => decodeJsonPayload('ticket_keys', payload)],
    [FrameType.HANDBACK, (payload) => ({ type: 'handback', entries: decodeHandBacks(payload) })],
    [FrameType.TAKEN, (payload) => ({ type: 'taken', sequences: decodeTaken(payload) })],
    [FrameType.GIVEN_BACK, (payload) => ({ type: 'given_back', entries: decodeGivenBack(payload) })],
    [FrameType.SETTLED, (payload) => ({ type: 'settled', entries: decodeSettled(payload) })],
  ],
)

/**
 * Turns the bytes of one control connection into frames, however they are split into chunks. A frame that is whole in a
 * chunk is decoded in place; parts of an incomplete one are copied. After `push` has returned, no frame and no state
 * refers to the chunk.
 */
export class FrameDecoder {
  #limit: number
  #held = NOTHING
  #heldSize = 0
  #heldTarget = LENGTH_SIZE
  #fault: ProtocolError | undefined

  /** `limit`: greatest allowed value of the length field, at least 1. @throws {RangeError} for an invalid `limit` */
  constructor(options: { limit: number }) {
    this.#limit = checkLimit(options.limit)
  }

  /**
   * Applies to frames whose length field has not been read yet. So a backend receives WELCOME separately, as it must for the
   * descriptor, and raises the limit before it reads further.
   */
  setLimit(limit: number): void {
    this.#limit = checkLimit(limit)
  }

  /** Bytes held of an incomplete frame. If it is not 0 at the end of the stream, the last frame was cut. */
  get buffered(): number {
    return this.#heldSize
  }

  /**
   * Returns the frames that `chunk` completes, in order. Frames of unknown types from 0x80 up are skipped.
   * @throws {ProtocolError} its `frames` are those before the fault. After that every call throws an error with the same code
   * and message, without frames.
   */
  push(chunk: Uint8Array): Frame[] {
    if (this.#fault) throw new ProtocolError(this.#fault.code, this.#fault.message)
    const frames: Frame[] = []
    try {
      this.#decode(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength), frames)
    } catch (error) {
      if (error instanceof ProtocolError) {
        this.#fault = error
        this.#letGo()
        error.frames = frames
      }
      throw error
    }
    return frames
  }

  #decode(chunk: Buffer, frames: Frame[]): void {
    let at = 0
    while (at < chunk.length) {
      const end = this.#heldSize === 0 ? this.#endOfWhole(chunk, at) : undefined
      if (end === undefined) {
        at += this.#hold(chunk, at, frames)
      } else {
        collect(chunk.subarray(at + LENGTH_SIZE, end), frames)
        at = end
      }
    }
  }

  /** End of the frame that starts at `at`, if all of it is in `chunk`. */
  #endOfWhole(chunk: Buffer, at: number): number | undefined {
    if (chunk.length - at < LENGTH_SIZE) return undefined
    const end = at + LENGTH_SIZE + this.#readLength(chunk, at)
    return end <= chunk.length ? end : undefined
  }

  /** Copies at most what the current frame still needs, first its length field and then the rest. Returns the number of bytes. */
  #hold(chunk: Buffer, at: number, frames: Frame[]): number {
    const taken = Math.min(this.#heldTarget - this.#heldSize, chunk.length - at)
    const size = this.#heldSize + taken
    if (size > this.#held.length) {
      const grown = Buffer.allocUnsafeSlow(Math.min(this.#heldTarget, Math.max(FIRST_CAPACITY, 2 * size)))
      this.#held.copy(grown, 0, 0, this.#heldSize)
      this.#held = grown
    }
    chunk.copy(this.#held, this.#heldSize, at, at + taken)
    this.#heldSize = size
    if (size < this.#heldTarget) return taken
    if (size === LENGTH_SIZE) {
      this.#heldTarget += this.#readLength(this.#held, 0)
    } else {
      collect(this.#held.subarray(LENGTH_SIZE, size), frames)
      this.#letGo()
    }
    return taken
  }

  #readLength(bytes: Buffer, at: number): number {
    const length = bytes.readUInt32LE(at)
    if (length === 0) throw new ProtocolError('BATON_ERR_FRAME_MALFORMED', 'a frame of length 0 has no type')
    if (length > this.#limit) {
      throw new ProtocolError(
        'BATON_ERR_FRAME_TOO_LARGE',
        `a frame of ${length} bytes is over the limit of ${this.#limit}`,
      )
    }
    return length
  }

  #letGo(): void {
    this.#held = NOTHING
    this.#heldSize = 0
    this.#heldTarget = LENGTH_SIZE
  }
}

/** `body`: type byte and payload. */
function collect(body: Buffer, frames: Frame[]): void {
  const code = body.readUInt8(0)
  const decode = DECODERS.get(code)
  if (decode !== undefined) {
    frames.push(decode(body.subarray(1)))
  } else if (code < FIRST_SKIPPABLE_TYPE) {
    throw new ProtocolError(
      'BATON_ERR_FRAME_UNKNOWN_TYPE',
      `frame type 0x${code.toString(16).padStart(2, '0')}`,
    )
  }
}

function checkLimit(limit: number): number {
  if (Number.isInteger(limit) && limit >= 1 && limit <= MAX_U32) return limit
  throw new RangeError(`limit is ${limit}, wanted a whole number of bytes from 1 to ${MAX_U32}`)
}
