export interface LineBufferOptions {
  /** Maximum size, in bytes. */
  readonly limit: number
  /** Bytes reserved for the process's own lines, so that an app's output cannot displace the reason for its restart. */
  readonly reserve: number
}

/** State to transfer to another buffer, besides the pending lines. */
export type LineBufferState = Pick<LineBuffer, 'begun' | 'dropped' | 'unreported'>

/** Source of a line: the process itself, or the output of a managed backend. */
export type Origin = 'own' | 'output'

/**
 * A bounded queue of lines, without I/O. A line that does not fit is dropped and counted, as are all further lines of its origin until
 * half of the buffer is free: this leaves one gap in the log instead of many. A partially written line is never dropped.
 */
export class LineBuffer {
  readonly #limit: number
  readonly #reserve: number
  readonly #lines: Buffer[] = []
  /** Index of the first pending line; those before it are removed in batches. */
  #first = 0
  /** Bytes of the first pending line already written. */
  #offset = 0
  #size = 0
  #dropping: 'nothing' | 'output' | 'everything' = 'nothing'
  #unreported = 0
  #dropped = 0

  constructor({ limit, reserve }: LineBufferOptions) {
    this.#limit = limit
    this.#reserve = reserve
  }

  /** Pending bytes. */
  get size(): number {
    return this.#size
  }

  /** Total lines dropped, including the restored count; never decreases. */
  get dropped(): number {
    return this.#dropped
  }

  /** Dropped lines that `resume` has not returned yet. */
  get unreported(): number {
    return this.#unreported
  }

  /** True if lines were dropped and there is room again. */
  get mayResume(): boolean {
    return this.#dropping !== 'nothing' && this.#size <= this.#limit / 2
  }

  /** @param bytes kept by reference; the caller must not change them */
  push(bytes: Buffer, origin: Origin): void {
    if (bytes.length === 0) return
    if (!this.#accepts(bytes.length, origin)) {
      if (origin === 'own') this.#dropping = 'everything'
      else if (this.#dropping === 'nothing') this.#dropping = 'output'
      const lines = countLines(bytes)
      this.#unreported += lines
      this.#dropped += lines
      return
    }
    this.#append(bytes)
  }

  /** Accepts lines again. @returns the number dropped since the last call */
  resume(): number {
    const count = this.#unreported
    this.#dropping = 'nothing'
    this.#unreported = 0
    return count
  }

  /**
   * The next bytes to write: as many whole lines as fit into `limit` bytes, or a single line that is longer or partially written.
   * Empty if nothing is pending.
   */
  next(limit: number): Buffer {
    const first = this.#lines[this.#first]
    if (first === undefined) return EMPTY
    if (this.#offset > 0) return first.subarray(this.#offset)
    let end = this.#first + 1
    let size = first.length
    for (let line = this.#lines[end]; line !== undefined && size + line.length <= limit;) {
      size += line.length
      end += 1
      line = this.#lines[end]
    }
    return end === this.#first + 1 ? first : Buffer.concat(this.#lines.slice(this.#first, end), size)
  }

  /** Removes `count` bytes that have been written, from the start of the last `next`. */
  written(count: number): void {
    this.#size -= count
    this.#offset += count
    for (let line = this.#lines[this.#first]; line !== undefined && this.#offset >= line.length;) {
      this.#offset -= line.length
      this.#first += 1
      line = this.#lines[this.#first]
    }
    if (this.#first > COMPACT_AFTER || this.#first === this.#lines.length) {
      this.#lines.splice(0, this.#first)
      this.#first = 0
    }
  }

  /**
   * Makes a partially written line pending as a whole, because output continues in another file. The size may then exceed the
   * limit by the part already written.
   */
  beginAgain(): void {
    this.#size += this.#offset
    this.#offset = 0
  }

  /** All pending bytes. They start with the rest of a line if it was partially written. */
  rest(): Buffer {
    return Buffer.concat(this.#lines.slice(this.#first)).subarray(this.#offset)
  }

  /** The written part of the first pending line; usually empty. */
  get begun(): Buffer {
    return this.#lines[this.#first]?.subarray(0, this.#offset) ?? EMPTY
  }

  /** Continues from the state of another buffer. Call before the first `push`. */
  restore(rest: Buffer, { dropped, unreported, begun }: LineBufferState): void {
    const lines = Buffer.concat([begun, rest])
    for (let at = 0; at < lines.length;) {
      const newline = lines.indexOf(NEWLINE, at)
      const end = newline === -1 ? lines.length : newline + 1
      this.#append(lines.subarray(at, end))
      at = end
    }
    this.#offset = begun.length
    this.#size -= begun.length
    this.#dropped += dropped
    this.#unreported += unreported
    if (this.#unreported > 0) this.#dropping = 'output'
  }

  #accepts(size: number, origin: Origin): boolean {
    if (origin === 'own') return this.#dropping !== 'everything' && this.#size + size <= this.#limit
    return this.#dropping === 'nothing' && this.#size + size <= this.#limit - this.#reserve
  }

  #append(bytes: Buffer): void {
    this.#lines.push(bytes)
    this.#size += bytes.length
  }
}

const EMPTY = Buffer.alloc(0)
const NEWLINE = 0x0a
/** Written lines are removed in batches: each removal moves the rest of the array. */
const COMPACT_AFTER = 1024

/** At least 1: text without a newline counts as a line. */
function countLines(bytes: Buffer): number {
  let count = 0
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count += 1
  return Math.max(1, count)
}
