/** What `parseJson` answers. Line and column count from 1, the column in UTF-16 units as editors do. */
export type JsonResult =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly line: number; readonly column: number; readonly message: string }

/**
 * JSON.parse for a file that a person edits. V8 names the place of an error in some messages and some versions
 * only, and it lets a second key of the same name silently win; here the first is always told, and the second is
 * an error, as is `__proto__` (an object literal would give it a meaning of its own).
 */
export function parseJson(text: string): JsonResult {
  try {
    new Scanner(text).document()
  } catch (error) {
    if (!(error instanceof Misplaced)) throw error
    const before = text.slice(0, error.offset).split('\n')
    return {
      ok: false,
      line: before.length,
      column: (before.at(-1)?.length ?? 0) + 1,
      message: error.message,
    }
  }
  return { ok: true, value: JSON.parse(text) }
}

class Misplaced extends Error {
  readonly offset: number
  constructor(offset: number, message: string) {
    super(message)
    this.offset = offset
  }
}

/** Deeper than any configuration, and far from the end of the stack. */
const MAX_DEPTH = 64

// RFC 8259, sections 2, 6 and 7. Sticky: each matches at `lastIndex` or not at all.
const SPACE = /[ \t\n\r]*/y
// oxlint-disable-next-line no-control-regex -- the RFC forbids control characters in strings
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y
const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y

class Scanner {
  readonly #text: string
  #offset = 0

  constructor(text: string) {
    this.#text = text
  }

  document(): void {
    this.#value(0)
    this.#take(SPACE)
    if (this.#offset < this.#text.length) throw this.#unexpected('the end of the file')
  }

  #value(depth: number): void {
    if (depth > MAX_DEPTH) throw new Misplaced(this.#offset, `nested more than ${MAX_DEPTH} deep`)
    this.#take(SPACE)
    if (this.#skip('{')) return this.#object(depth)
    if (this.#skip('[')) return this.#array(depth)
    if (this.#take(STRING) ?? this.#take(SCALAR)) return
    throw this.#unexpected('a value')
  }

  #object(depth: number): void {
    const keys = new Set<unknown>()
    this.#take(SPACE)
    if (this.#skip('}')) return
    do {
      this.#take(SPACE)
      const start = this.#offset
      const literal = this.#take(STRING)
      if (literal === undefined) throw this.#unexpected('a key in double quotes')
      const key: unknown = JSON.parse(literal)
      if (keys.has(key)) throw new Misplaced(start, `the key ${literal} is there twice`)
      if (key === '__proto__') throw new Misplaced(start, `${literal} can not be a key`)
      keys.add(key)
      this.#take(SPACE)
      if (!this.#skip(':')) throw this.#unexpected('":"')
      this.#value(depth + 1)
      this.#take(SPACE)
    } while (this.#skip(','))
    if (!this.#skip('}')) throw this.#unexpected('"," or "}"')
  }

  #array(depth: number): void {
    this.#take(SPACE)
    if (this.#skip(']')) return
    do {
      this.#value(depth + 1)
      this.#take(SPACE)
    } while (this.#skip(','))
    if (!this.#skip(']')) throw this.#unexpected('"," or "]"')
  }

  #take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#offset
    const match = pattern.exec(this.#text)?.[0]
    this.#offset += match?.length ?? 0
    return match
  }

  #skip(character: string): boolean {
    if (this.#text[this.#offset] !== character) return false
    this.#offset++
    return true
  }

  #unexpected(wanted: string): Misplaced {
    const point = this.#text.codePointAt(this.#offset)
    const got = point === undefined ? 'the end of the file' : JSON.stringify(String.fromCodePoint(point))
    return new Misplaced(this.#offset, `expected ${wanted}, got ${got}`)
  }
}
