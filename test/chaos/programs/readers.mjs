import { content } from '../content.mjs'

const HEAD_END = '\r\n\r\n'

/** An HTTP response with Content-Length: `{ body, close }`. Anything but 200 is wrong. */
export class AnswerReader {
  #text = ''

  push(chunk) {
    this.#text += chunk.toString('latin1')
    const head = this.#text.indexOf(HEAD_END)
    if (head === -1) return undefined
    const { close, length } = readHead(this.#text.slice(0, head))
    const body = this.#text.slice(head + HEAD_END.length)
    if (body.length < length) return undefined
    if (body.length > length) throw new Error(`${body.length - length} bytes after the response`)
    return { body, close }
  }
}

/** A chunked HTTP response whose bytes must be those of the download `id`. */
export class DownloadReader {
  #id
  #size
  #rest = Buffer.alloc(0)
  #instance
  #offset = 0
  /** Bytes missing from the current chunk. */
  #chunk = 0

  constructor(id, size) {
    this.#id = id
    this.#size = size
  }

  push(chunk) {
    let rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    if (this.#instance === undefined) {
      const head = rest.indexOf(HEAD_END)
      if (head === -1) return this.#keep(rest)
      this.#instance = readHead(rest.toString('latin1', 0, head)).instance
      rest = rest.subarray(head + HEAD_END.length)
    }
    for (;;) {
      if (this.#chunk > 0) {
        const part = rest.subarray(0, this.#chunk)
        if (!part.equals(content(this.#id, this.#offset, part.length))) {
          throw new Error(`other bytes than expected from ${this.#offset} on`)
        }
        this.#offset += part.length
        this.#chunk -= part.length
        rest = rest.subarray(part.length)
        if (this.#chunk > 0) return this.#keep(rest)
        // The end of the chunk, read with the head of the next.
      }
      const from = this.#offset > 0 ? 2 : 0
      const line = rest.indexOf('\r\n', from)
      if (line === -1) return this.#keep(rest)
      const length = Number.parseInt(rest.toString('latin1', from, line), 16)
      if (Number.isNaN(length)) throw new Error('no chunk where one should be')
      if (length > 0) {
        rest = rest.subarray(line + 2)
        this.#chunk = length
      } else if (rest.length < line + 4) return this.#keep(rest)
      else if (this.#offset !== this.#size) throw new Error(`${this.#offset} bytes, wanted ${this.#size}`)
      else return { instance: this.#instance }
    }
  }

  #keep(rest) {
    this.#rest = rest
    return undefined
  }
}

/** Everything up to the end of the connection. */
export class WholeReader {
  #text = ''

  push(chunk) {
    this.#text += chunk.toString('latin1')
    return undefined
  }

  end() {
    return this.#text.endsWith('\n') ? { body: this.#text } : undefined
  }
}

function readHead(head) {
  if (!head.startsWith('HTTP/1.1 200 ')) throw new Error(`status ${head.slice(9, 12)}`)
  return {
    close: /\r\nconnection: close/i.test(head),
    length: Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1]),
    instance: Number(/\r\nx-instance: (\d+)/i.exec(head)?.[1]),
  }
}
