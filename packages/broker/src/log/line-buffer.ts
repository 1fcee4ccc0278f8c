export interface LineBufferOptions {
  /** Maximum size, in bytes. */
  readonly limit: number
  /** How much of it is for the process's own lines alone: the output of an app does not displace why it was restarted. */
  readonly reserve: number
}

/** What another buffer needs beside the lines that wait. */
export type LineBufferState = Pick<LineBuffer, 'begun' | 'dropped' | 'unreported'>

/** Whether a line is the process's own, or what a managed backend printed. */
export type Origin = 'own' | 'output'

/**
 * A bounded queue, without I/O. A line that does not fit is dropped and counted, and so are all of its origin that follow until half
 * of the buffer is free again: one gap in the log instead of many. A line of which a part has been written is never dropped.
 */
export class LineBuffer {
  readonly #limit: number
  readonly #reserve: number
  readonly #lines: Buffer[] = []
  /** Index of the first line that is not written; those before it are removed from time to time. */
  #first = 0
  /** Bytes of the first line that are written. */
  #offset = 0
  #size = 0
  #dropping: 'nothing' | 'output' | 'everything' = 'nothing'
  #unreported = 0
  #dropped = 0

  constructor({ limit, reserve }: LineBufferOptions) {
    this.#limit = limit
    this.#reserve = reserve
  }

  /** Bytes that wait. */
  get size(): number {
    return this.#size
  }

  /** Lines dropped since `count` was last restored; never falls. */
  get dropped(): number {
    return this.#dropped
  }

  /** Lines dropped that `resume` has not returned yet. */
  get unreported(): number {
    return this.#unreported
  }

  /** Lines were dropped, and there is room again. */
  get mayResume(): boolean {
    return this.#dropping !== 'nothing' && this.#size <= this.#limit / 2
  }

  /** @param bytes kept as they are: the caller does not change them any more */
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

  /** Accepts lines again. @returns how many were dropped since the last time */
  resume(): number {
    const count = this.#unreported
    this.#dropping = 'nothing'
    this.#unreported = 0
    return count
  }

  /**
   * What to write next: as many whole lines as `limit` bytes hold; a longer one, or the rest of one, alone. Empty when nothing
   * waits.
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

  /** This number of bytes of what `next` returned has been written. */
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
   * A line of which only a part has been written waits as a whole again: what comes next goes to another file. The size may exceed
   * the limit by that part.
   */
  beginAgain(): void {
    this.#size += this.#offset
    this.#offset = 0
  }

  /** Everything that waits, as one text; begins with the rest of a line if a part of it was written. */
  rest(): Buffer {
    return Buffer.concat(this.#lines.slice(this.#first)).subarray(this.#offset)
  }

  /** The part of a line that was written, whose rest is the first of what waits; mostly empty. */
  get begun(): Buffer {
    return this.#lines[this.#first]?.subarray(0, this.#offset) ?? EMPTY
  }

  /** Goes on where another buffer has ended, which had these; before anything is pushed. */
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

/** At least 1: a text without a line end is a line. */
function countLines(bytes: Buffer): number {
  let count = 0
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count += 1
  return Math.max(1, count)
}
