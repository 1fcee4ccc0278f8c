/** Lines and columns count from 1; columns are UTF-16 code units, as in editors. */
export type JsonResult =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly line: number; readonly column: number; readonly message: string }

/** Deeper than any configuration, and far from the end of the stack. */
const MAX_DEPTH = 64
/** Characters of the text that an error message quotes. */
const MAX_QUOTED = 40

const OPTIONS = { allowTrailingComma: true }

/**
 * Loaded when the first file is parsed, and with it Node's module for that. By `require`, since the package is CommonJS: `import` would load a
 * lexer for its exports first, which costs several times as much (docs/internals/decisions/0017-libraries.md).
 */
function parser(): typeof import('jsonc-parser') {
  const { createRequire } = process.getBuiltinModule('node:module')
  return createRequire(import.meta.url)('jsonc-parser') as typeof import('jsonc-parser')
}

/**
 * Parses a file that a person edits: JSON with comments and trailing commas. Reports the position of the first error. A duplicate
 * key is an error, since `JSON.parse` would silently use the last one, and so is `__proto__`, which would set a prototype.
 */
export function parseJson(text: string): JsonResult {
  /** Keys of each object that is open; an array has none. */
  const open: Set<string>[] = []
  const begin = (_offset: number, _length: number, line: number, column: number) => {
    if (open.length > MAX_DEPTH) throw new Misplaced(line, column, `nested more than ${MAX_DEPTH} deep`)
    open.push(new Set())
  }
  const end = () => void open.pop()
  const { parse, printParseErrorCode, visit } = parser()
  try {
    visit(
      text,
      {
        onObjectBegin: begin,
        onObjectProperty(key, _offset, _length, line, column) {
          const keys = open.at(-1)
          if (keys?.has(key) === true)
            throw new Misplaced(line, column, `duplicate key ${JSON.stringify(key)}`)
          if (key === '__proto__') throw new Misplaced(line, column, '"__proto__" cannot be a key')
          keys?.add(key)
        },
        onObjectEnd: end,
        onArrayBegin: begin,
        onArrayEnd: end,
        onError(code, offset, length, line, column) {
          throw new Misplaced(
            line,
            column,
            describe(printParseErrorCode(code), text.slice(offset, offset + length)),
          )
        },
      },
      OPTIONS,
    )
  } catch (error) {
    if (!(error instanceof Misplaced)) throw error
    return { ok: false, line: error.line + 1, column: error.column + 1, message: error.message }
  }
  return { ok: true, value: parse(text, [], OPTIONS) as unknown }
}

/** Line and column count from 0. */
class Misplaced extends Error {
  readonly line: number
  readonly column: number
  constructor(line: number, column: number, message: string) {
    super(message)
    this.line = line
    this.column = column
  }
}

/** For errors where the parser expected something else. */
const EXPECTED: Readonly<Record<string, string>> = {
  PropertyNameExpected: 'a key in double quotes',
  ValueExpected: 'a value',
  ColonExpected: '":"',
  CommaExpected: '","',
  CloseBraceExpected: '"," or "}"',
  CloseBracketExpected: '"," or "]"',
  EndOfFileExpected: 'the end of the file',
}

const INVALID: Readonly<Record<string, string>> = {
  InvalidSymbol: 'is not JSON; keys and text need double quotes',
  UnexpectedEndOfComment: 'is a comment without an end',
  UnexpectedEndOfString: 'has no closing quote on its line',
  InvalidCharacter: String.raw`has a control character; write it as \u and four hexadecimal digits`,
  InvalidEscapeCharacter: 'has an unknown escape sequence',
  InvalidUnicode: String.raw`has \u without four hexadecimal digits`,
}

function describe(name: string, found: string): string {
  const quoted = JSON.stringify(found.length > MAX_QUOTED ? `${found.slice(0, MAX_QUOTED)}...` : found)
  const expected = EXPECTED[name]
  if (expected === undefined) return `${quoted} ${INVALID[name] ?? 'is not a number'}`
  return `expected ${expected}, got ${found === '' ? 'the end of the file' : quoted}`
}
