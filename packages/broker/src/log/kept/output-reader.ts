import { type FileHandle, open } from 'node:fs/promises'
import { filesOf, isMissing, outputFile } from './files.ts'
import { type OutputLine, parseLine } from './line.ts'

const BLOCK = 64 * 1024

/** A longer line is not one of ours, in bytes: 16 KiB of output, with every byte escaped, and its head. */
const MAX_KEPT_LINE = 256 * 1024

const NEWLINE = 0x0a
const NOTHING = Buffer.alloc(0)

/** Where a reader goes on. */
export interface Position {
  readonly number: number
  readonly offset: number
}

/** Reads the kept output of one service from a position on, oldest first. Follows it over rotation. Owns the file that it reads. */
export class OutputReader {
  readonly #folder: string
  readonly #service: string
  #number: number
  #offset: number
  #handle: FileHandle | undefined
  /** Read and not yet returned: the beginning of a line. */
  #partial: Buffer = NOTHING

  /** @param from default: the oldest line */
  constructor(folder: string, service: string, from: Position = { number: 0, offset: 0 }) {
    this.#folder = folder
    this.#service = service
    this.#number = from.number
    this.#offset = from.offset
  }

  /** From the last file that may have a line of this time or later: in ms since the Unix epoch. */
  static async since(folder: string, service: string, time: number): Promise<OutputReader> {
    const number = (await filesOf(folder, service)).findLast((each) => each <= time) ?? 0
    return new OutputReader(folder, service, { number, offset: 0 })
  }

  /**
   * Lines up to the current end. Call again for later ones.
   *
   * @throws the error of readdir(3), open(2) or read(2)
   */
  async *read(): AsyncGenerator<OutputLine> {
    for (;;) {
      if (this.#handle === undefined && !(await this.#openNext((number) => number >= this.#number))) return
      yield* this.#rest()
      const later = (number: number) => number > this.#number
      if (!(await filesOf(this.#folder, this.#service)).some(later)) return
      // Written before the later file was opened.
      yield* this.#rest()
      await this.close()
      if (!(await this.#openNext(later))) return
    }
  }

  async close(): Promise<void> {
    const handle = this.#handle
    this.#handle = undefined
    this.#partial = NOTHING
    await handle?.close()
  }

  async #openNext(fits: (number: number) => boolean): Promise<boolean> {
    for (const number of (await filesOf(this.#folder, this.#service)).filter(fits)) {
      const handle = await opened(outputFile(this.#folder, this.#service, number))
      if (handle === undefined) continue
      if (number !== this.#number) this.#offset = 0
      this.#number = number
      this.#handle = handle
      return true
    }
    return false
  }

  async *#rest(): AsyncGenerator<OutputLine> {
    const block = Buffer.allocUnsafe(BLOCK)
    for (;;) {
      if (this.#handle === undefined) return
      const { bytesRead } = await this.#handle.read(block, 0, BLOCK, this.#offset + this.#partial.length)
      if (bytesRead === 0) return
      const bytes = Buffer.concat([this.#partial, block.subarray(0, bytesRead)])
      let at = 0
      for (let end = bytes.indexOf(NEWLINE); end !== -1; end = bytes.indexOf(NEWLINE, at)) {
        const line = parseLine(bytes.toString('utf8', at, end))
        at = end + 1
        if (line !== undefined) yield line
      }
      if (bytes.length - at > MAX_KEPT_LINE) at = bytes.length
      this.#offset += at
      this.#partial = bytes.subarray(at)
    }
  }
}

export interface Tail {
  /** Oldest first. */
  readonly lines: readonly OutputLine[]
  /** Behind the last line that was complete. */
  readonly end: Position
}

export interface TailOptions {
  /** Maximum number of lines. */
  readonly count: number
  readonly wanted: (line: OutputLine) => boolean
  /** How many bytes are read at most. Default: no limit. */
  readonly maxBytes?: number
  /** Maximum size of the text of the lines, in characters. Default: no limit. */
  readonly maxText?: number
}

/**
 * The last lines of a service that are wanted. Reads backwards, no more than it needs.
 *
 * @throws the error of readdir(3), open(2) or read(2)
 */
export async function readTail(folder: string, service: string, options: TailOptions): Promise<Tail> {
  const { count, wanted, maxBytes = Infinity, maxText = Infinity } = options
  const lines: OutputLine[] = []
  let end: Position | undefined
  let [bytes, text] = [0, 0]
  for (const number of (await filesOf(folder, service)).toReversed()) {
    const handle = await opened(outputFile(folder, service, number))
    if (handle === undefined) continue
    try {
      const { size } = await handle.stat()
      for await (const { raw, next } of backwards(handle, size)) {
        end ??= { number, offset: next }
        bytes += raw.length
        const line = lines.length < count ? parseLine(raw.toString()) : undefined
        if (line !== undefined && wanted(line)) {
          text += line.msg.length
          if (lines.length > 0 && text > maxText) return { lines: lines.toReversed(), end }
          lines.push(line)
        }
        if (lines.length >= count || bytes > maxBytes) return { lines: lines.toReversed(), end }
      }
      end ??= { number, offset: 0 }
    } finally {
      await handle.close()
    }
  }
  return { lines: lines.toReversed(), end: end ?? { number: 0, offset: 0 } }
}

/** Complete lines, last first, each with the offset behind it. */
async function* backwards(handle: FileHandle, size: number): AsyncGenerator<{ raw: Buffer; next: number }> {
  /** Bytes from `start` to the end of the last line that was not returned yet. */
  let rest = NOTHING
  let start = size
  let complete = false
  while (start > 0) {
    const length = Math.min(BLOCK, start)
    const block = Buffer.allocUnsafe(length)
    await readWhole(handle, block, start - length)
    start -= length
    rest = Buffer.concat([block, rest])
    if (!complete) {
      const last = rest.lastIndexOf(NEWLINE)
      rest = rest.subarray(0, last + 1)
      complete = last !== -1
      if (!complete) continue
    }
    // `rest` ends with a newline. The line before it begins behind the newline before.
    for (let end = rest.length; end > 0; end = rest.length) {
      const begin = end < 2 ? -1 : rest.lastIndexOf(NEWLINE, end - 2)
      if (begin === -1 && start > 0) break
      yield { raw: rest.subarray(begin + 1, end - 1), next: start + end }
      rest = rest.subarray(0, begin + 1)
    }
  }
}

async function readWhole(handle: FileHandle, into: Buffer, position: number): Promise<void> {
  for (let at = 0; at < into.length;) {
    const { bytesRead } = await handle.read(into, at, into.length - at, position + at)
    if (bytesRead === 0) throw new Error('the file of kept output was truncated while it was read')
    at += bytesRead
  }
}

/** Undefined for a file that was removed meanwhile. */
async function opened(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}
