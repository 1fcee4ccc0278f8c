/** Bits of a frame's first two bytes. */
const FIN = 0x80
const COMPRESSED = 0x40
const CONTROL = 0x08
const CONTINUATION = 0
const OPCODE = 0x0f
const MASKED = 0x80
const LENGTH = 0x7f
const LENGTH_16 = 126
const LENGTH_64 = 127
const MASK_BYTES = 4
/** Fixed part of a frame's head. */
const SHORTEST_HEAD = 2

const EMPTY = Buffer.alloc(0)
/** First size of the buffer for kept bytes; it doubles. */
const FIRST_ROOM = 64

/**
 * Follows the frames of a WebSocket client (RFC 6455, 5.2) without decoding them, so that it is known at any moment how many messages
 * and control frames are complete, and which bytes belong to a message that is not.
 *
 * These bytes (`tail`) are what another process needs to go on: the fragments so far, and the beginning of the next frame. Control
 * frames between fragments are answered when they come, and are left out.
 */
export class FrameWalker {
  readonly #limit: number
  readonly #onMessage: ((compressed: boolean) => void) | undefined
  /**
   * Complete frames of the unfinished message, and behind them the unfinished frame so far. One buffer that grows: a client may send
   * each byte by itself, and an object for each would take a hundred times the memory.
   */
  #bytes = EMPTY
  /** How much of it is filled. */
  #kept = 0
  /** How much of that is complete frames. */
  #fragments = 0
  #tooLong = false
  /** The unfinished frame's head: what has come of it, until it is complete. */
  #head = EMPTY
  /** First byte of the unfinished frame, once its head is complete. */
  #first = 0
  /** Bytes that the unfinished frame still lacks; undefined while its head is incomplete. */
  #missing: number | undefined
  #compressed = false
  #messages = 0
  #controls = 0

  /**
   * @param limit most bytes to keep of an unfinished message; beyond, it is `tooLong` until the message is over
   * @param onMessage called at the end of each message: whether its payload is compressed (RSV1, RFC 7692)
   */
  constructor(limit: number, onMessage?: (compressed: boolean) => void) {
    this.#limit = limit
    this.#onMessage = onMessage
  }

  /** Complete messages so far. */
  get messages(): number {
    return this.#messages
  }

  /** Complete control frames so far. */
  get controls(): number {
    return this.#controls
  }

  /** The unfinished message is longer than what is kept of it. */
  get tooLong(): boolean {
    return this.#tooLong
  }

  /** No frame is under way. A message may be. */
  get betweenFrames(): boolean {
    return this.#missing === undefined && this.#head.length === 0
  }

  get tailLength(): number {
    return this.#kept + this.#head.length
  }

  /** The bytes behind the last complete message, less complete control frames. Of no use if `tooLong`. */
  tail(): Buffer {
    return Buffer.concat([this.#bytes.subarray(0, this.#kept), this.#head])
  }

  /** Bytes of the client, in any portions. Keeps copies, since `ws` takes masks off in place. */
  feed(chunk: Buffer): void {
    let at = 0
    while (at < chunk.length) {
      at = this.#missing === undefined ? this.#readHead(chunk, at) : this.#readPayload(chunk, at)
      if (this.#missing === 0) this.#endFrame()
    }
  }

  /** @returns where to go on in `chunk` */
  #readHead(chunk: Buffer, at: number): number {
    const before = this.#head.length
    // At most 14 bytes: copied once or twice a frame.
    const view =
      before === 0 ? chunk.subarray(at) : Buffer.concat([this.#head, chunk.subarray(at, at + 14 - before)])
    const head = headLength(view)
    if (view.length < head) {
      this.#head = Buffer.from(view)
      return chunk.length
    }
    this.#first = view.readUInt8(0)
    this.#missing = payloadLength(view)
    this.#head = EMPTY
    const fragment = this.#first & OPCODE
    if (fragment !== CONTINUATION && (this.#first & CONTROL) === 0)
      this.#compressed = (this.#first & COMPRESSED) !== 0
    this.#keep(view.subarray(0, head))
    return at + head - before
  }

  #readPayload(chunk: Buffer, at: number): number {
    const missing = this.#missing as number
    const end = Math.min(chunk.length, at + missing)
    // A frame that is complete in this chunk, and ends its message, is not needed.
    const over = end === at + missing && ((this.#first & CONTROL) !== 0 || (this.#first & FIN) !== 0)
    if (!over) this.#keep(chunk.subarray(at, end))
    this.#missing = missing - (end - at)
    return end
  }

  #keep(bytes: Buffer): void {
    if (this.#tooLong) return
    const wanted = this.#kept + bytes.length
    if (wanted > this.#limit) {
      this.#tooLong = true
      this.#forget()
      return
    }
    if (wanted > this.#bytes.length) {
      const room = Math.min(this.#limit, Math.max(FIRST_ROOM, 2 * this.#bytes.length))
      const grown = Buffer.allocUnsafe(Math.max(wanted, room))
      this.#bytes.copy(grown, 0, 0, this.#kept)
      this.#bytes = grown
    }
    bytes.copy(this.#bytes, this.#kept)
    this.#kept = wanted
  }

  #endFrame(): void {
    this.#missing = undefined
    if ((this.#first & CONTROL) !== 0) {
      this.#controls += 1
      if (this.#fragments === 0) this.#forget()
      this.#kept = this.#fragments
      return
    }
    if ((this.#first & FIN) === 0) {
      this.#fragments = this.#kept
      return
    }
    this.#messages += 1
    this.#forget()
    this.#tooLong = false
    this.#onMessage?.(this.#compressed)
  }

  #forget(): void {
    this.#bytes = EMPTY
    this.#fragments = 0
    this.#kept = 0
  }
}

/** Length of a frame's head as far as `view` shows: more than `view.length` if it is incomplete. */
function headLength(view: Buffer): number {
  if (view.length < SHORTEST_HEAD) return SHORTEST_HEAD
  const second = view.readUInt8(1)
  const length = second & LENGTH
  const extended = length === LENGTH_16 ? 2 : length === LENGTH_64 ? 8 : 0
  return SHORTEST_HEAD + extended + ((second & MASKED) === 0 ? 0 : MASK_BYTES)
}

/** Of a complete head. A length that no process can hold is inexact, which does not matter: it never ends. */
function payloadLength(view: Buffer): number {
  const length = view.readUInt8(1) & LENGTH
  if (length === LENGTH_16) return view.readUInt16BE(SHORTEST_HEAD)
  if (length === LENGTH_64) return Number(view.readBigUInt64BE(SHORTEST_HEAD))
  return length
}
