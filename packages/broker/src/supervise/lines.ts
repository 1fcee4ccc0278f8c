/** Maximum length of a line, in bytes. Longer ones are split: a single line must not fill the master's memory. */
export const MAX_LINE_BYTES = 16 * 1024

const NEWLINE = 0x0a
const NOTHING = Buffer.alloc(0)

/** Splits the bytes of one stream into lines. Keeps the incomplete last line, at most `MAX_LINE_BYTES` of it. */
export class LineSplitter {
  #partial: Buffer

  /** @param partial the incomplete line of an earlier splitter of the same stream */
  constructor(partial: Buffer = NOTHING) {
    this.#partial = partial
  }

  /** The incomplete last line. */
  get partial(): Buffer {
    return this.#partial
  }

  /** Returns the lines that `chunk` completes, without their line ends. */
  push(chunk: Buffer): string[] {
    const lines: string[] = []
    let rest = this.#partial.length === 0 ? chunk : Buffer.concat([this.#partial, chunk])
    while (rest.length > 0) {
      const end = rest.indexOf(NEWLINE)
      const length = end === -1 ? rest.length : end
      if (length > MAX_LINE_BYTES) {
        const cut = characterBoundary(rest, MAX_LINE_BYTES)
        lines.push(text(rest.subarray(0, cut)))
        rest = rest.subarray(cut)
      } else if (end === -1) break
      else {
        lines.push(text(rest.subarray(0, end)))
        rest = rest.subarray(end + 1)
      }
    }
    // A copy, so that the rest does not keep the whole chunk alive.
    this.#partial = rest.length === 0 ? NOTHING : Buffer.from(rest)
    return lines
  }

  /** The stream has ended: returns its last line if that had no line end. */
  end(): string[] {
    const last = this.#partial
    this.#partial = NOTHING
    return last.length === 0 ? [] : [text(last)]
  }
}

function text(line: Buffer): string {
  const decoded = line.toString('utf8')
  return decoded.endsWith('\r') ? decoded.slice(0, -1) : decoded
}

/** The last index up to `at` that does not split a UTF-8 character (whose later bytes are 10xxxxxx); `at` if there is none nearby. */
function characterBoundary(bytes: Buffer, at: number): number {
  for (let cut = at; cut > at - 4; cut--) if (((bytes[cut] ?? 0) & 0xc0) !== 0x80) return cut
  return at
}
