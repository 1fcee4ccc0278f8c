/** How far back compressed data may refer (RFC 1951): 32 KiB. */
const WINDOW_BYTES = 32_768

/**
 * The last 32 KiB that were inflated on one connection, oldest first. The client's deflater goes on referring to them
 * (context takeover, RFC 7692, 7.1.1), so the next process's inflater needs them as its dictionary.
 */
export class InflateWindow {
  /** Made for the first byte: many clients send nothing that is compressed. */
  #ring: Buffer | undefined
  #length = 0
  #next = 0

  constructor(bytes?: Buffer) {
    if (bytes !== undefined) this.add(bytes)
  }

  add(bytes: Buffer): void {
    const last = bytes.subarray(Math.max(0, bytes.length - WINDOW_BYTES))
    this.#ring ??= Buffer.allocUnsafe(WINDOW_BYTES)
    const fits = last.copy(this.#ring, this.#next)
    last.copy(this.#ring, 0, fits)
    this.#next = (this.#next + last.length) % WINDOW_BYTES
    this.#length = Math.min(WINDOW_BYTES, this.#length + last.length)
  }

  bytes(): Buffer {
    const ring = this.#ring ?? Buffer.alloc(0)
    if (this.#length < WINDOW_BYTES) return Buffer.from(ring.subarray(0, this.#length))
    return Buffer.concat([ring.subarray(this.#next), ring.subarray(0, this.#next)])
  }
}
