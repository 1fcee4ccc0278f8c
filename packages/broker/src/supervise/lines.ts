/** Longer lines are cut into pieces of so many bytes: one line must not fill the master's memory. */
export const MAX_LINE_BYTES = 16 * 1024

const NEWLINE = 0x0a
const NOTHING = Buffer.alloc(0)

/** Bytes of one stream to lines. Keeps the incomplete last one, never more than `MAX_LINE_BYTES` of it. */
export class LineSplitter {
  #partial: Buffer

  /** @param partial what another splitter of the same stream had left */
  constructor(partial: Buffer = NOTHING) {
    this.#partial = partial
  }

  /** The beginning of a line whose end has not come. */
  get partial(): Buffer {
    return this.#partial
  }

  /** The lines that `chunk` completes, without their line ends. */
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
    // A copy: what remains must not keep the whole chunk alive.
    this.#partial = rest.length === 0 ? NOTHING : Buffer.from(rest)
    return lines
  }

  /** The stream has ended: its last line, if that had no line end. */
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

/** The last place up to `at` that is not within a UTF-8 character (whose later bytes are 10xxxxxx), if there is one near. */
function characterBoundary(bytes: Buffer, at: number): number {
  for (let cut = at; cut > at - 4; cut--) if (((bytes[cut] ?? 0) & 0xc0) !== 0x80) return cut
  return at
}
