/**
 * The head of an HTTP/1 request (RFC 9112), read as strictly as its next reader might: the backend parses it again, and the two must never
 * disagree about host and path. Whatever parsers could read in two ways is refused. Pure: keeps no bytes.
 */
export interface RequestHead {
  readonly method: string
  /** Host of the Host field in lower case, without port and final dot; undefined without that field, '' if it is empty. */
  readonly host: string | undefined
  /** As the client wrote it, without a query; `*` or '' where the target is none. Neither decoded nor normalised. */
  readonly path: string
  /** Values by name in lower case, in the order of the fields. */
  readonly fields: ReadonlyMap<string, readonly string[]>
}

export type HeadReading =
  | { readonly state: 'more' }
  | { readonly state: 'found'; readonly head: RequestHead }
  | { readonly state: 'refused'; readonly why: HeadFault }
  /** An HTTP/2 connection preface: it has no such head. */
  | { readonly state: 'http2' }

/** Why a head is refused. */
export type HeadFault =
  | 'bare line feed'
  | 'request line'
  | 'request target'
  | 'field line'
  | 'folded field'
  | 'control character'
  | 'more than one Host'
  | 'host name'
  | 'target and Host differ'

const LF = 0x0a
const CR = 0x0d
const CRLF = '\r\n'
const PREFACE = 'PRI * HTTP/2.0\r\n\r\n'
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const REQUEST_LINE = /^([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP\/1\.[01]$/
/** A field's value: visible characters, blanks, and bytes of other encodings. */
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/
const ABSOLUTE = /^https?:\/\/([^/?#]*)(.*)$/is
const HOST = /^(\[[0-9a-f:.]+\]|[a-z0-9._-]{0,255})(?::(\d{0,5}))?$/i

/** The result of a look at an incomplete head. */
export interface HeadScan {
  /** Bytes that need not be looked at again when more have arrived. */
  readonly scanned: number
  /** Bytes of the head with its empty line; undefined while that has not arrived. */
  readonly end: number | undefined
  readonly fault: HeadFault | undefined
}

/**
 * Looks for the end of the head in `bytes`, which are all that has been received. `from`: `scanned` of the scan before, so that a client that
 * sends single bytes costs little more than one that sends everything at once.
 */
export function scanHead(bytes: Buffer, from = 0): HeadScan {
  // Empty lines before the request line are skipped (RFC 9112, section 2.2).
  let begin = 0
  while (bytes[begin] === CR || bytes[begin] === LF) begin++
  let start = from
  for (;;) {
    const feed = bytes.indexOf(LF, start)
    if (feed === -1) return { scanned: bytes.length, end: undefined, fault: undefined }
    if (feed === 0 || bytes[feed - 1] !== CR)
      return { scanned: feed, end: undefined, fault: 'bare line feed' }
    if (feed > begin && bytes[feed - 2] === LF) return { scanned: feed, end: feed + 1, fault: undefined }
    start = feed + 1
  }
}

/** Reads the head at the start of `bytes`: everything that has been received. */
export function readRequestHead(bytes: Buffer): HeadReading {
  const { end, fault } = scanHead(bytes)
  if (fault !== undefined) return { state: 'refused', why: fault }
  if (end === undefined) return { state: 'more' }
  return parseHead(bytes, end)
}

/** Parses a head of which `scanHead` has found the end. */
export function parseHead(bytes: Buffer, end: number): HeadReading {
  const text = bytes.toString('latin1', 0, end)
  if (text === PREFACE) return { state: 'http2' }
  try {
    return { state: 'found', head: parse(text) }
  } catch (error) {
    if (error instanceof Refused) return { state: 'refused', why: error.why }
    throw error
  }
}

class Refused extends Error {
  readonly why: HeadFault

  constructor(why: HeadFault) {
    super(why)
    this.why = why
  }
}

function parse(text: string): RequestHead {
  let start = 0
  while (text.startsWith(CRLF, start)) start += CRLF.length
  const end = text.indexOf(CRLF, start)
  const line = REQUEST_LINE.exec(text.slice(start, end))
  if (line === null) throw new Refused('request line')
  const [, method = '', target = ''] = line
  const fields = parseFields(text, end + CRLF.length)
  const hosts = fields.get('host')
  if (hosts !== undefined && hosts.length > 1) throw new Refused('more than one Host')
  const named = hosts?.[0]
  const host = named === undefined ? undefined : hostName(named)
  return { method, host, path: pathOf(method, target, named), fields }
}

/** @param from where the first field begins, or the empty line */
function parseFields(text: string, from: number): Map<string, string[]> {
  const fields = new Map<string, string[]>()
  for (let at = from, end: number; (end = text.indexOf(CRLF, at)) > at; at = end + CRLF.length) {
    if (isBlank(text, at)) throw new Refused('folded field')
    const colon = text.indexOf(':', at)
    const name = colon < end ? text.slice(at, Math.max(at, colon)) : ''
    if (!TOKEN.test(name)) throw new Refused('field line')
    const value = text.slice(colon + 1, end)
    // A bare CR is among them.
    if (!VALUE.test(value)) throw new Refused('control character')
    const key = name.toLowerCase()
    const trimmed = trimBlanks(value)
    const values = fields.get(key)
    if (values === undefined) fields.set(key, [trimmed])
    else values.push(trimmed)
  }
  return fields
}

/** Without blanks and tabs around it. `trim` would also take the NBSP of Latin-1, and a regular expression quadratic time. */
function trimBlanks(text: string): string {
  let start = 0
  let end = text.length
  while (start < end && isBlank(text, start)) start++
  while (end > start && isBlank(text, end - 1)) end--
  return text.slice(start, end)
}

function isBlank(text: string, at: number): boolean {
  const code = text.charCodeAt(at)
  return code === 0x20 || code === 0x09
}

function hostName(value: string): string {
  const [, name] = HOST.exec(value) ?? []
  if (name === undefined) throw new Refused('host name')
  return (name.endsWith('.') ? name.slice(0, -1) : name).toLowerCase()
}

/** @param host the Host field as written */
function pathOf(method: string, target: string, host: string | undefined): string {
  if (target.includes('#')) throw new Refused('request target')
  if (method === 'CONNECT') {
    // Its target is an authority, which must be that of Host.
    if (host === undefined || target.toLowerCase() !== host.toLowerCase())
      throw new Refused('target and Host differ')
    return ''
  }
  if (target.startsWith('/')) return withoutQuery(target)
  if (target === '*' && method === 'OPTIONS') return '*'
  const [, authority, rest] = ABSOLUTE.exec(target) ?? []
  if (authority === undefined || rest === undefined) throw new Refused('request target')
  // RFC 9112 prefers the target, most servers the field.
  if (authority === '' || authority.toLowerCase() !== host?.toLowerCase())
    throw new Refused('target and Host differ')
  const path = withoutQuery(rest)
  return path === '' ? '/' : path
}

function withoutQuery(target: string): string {
  const query = target.indexOf('?')
  return query === -1 ? target : target.slice(0, query)
}

/**
 * The value of a cookie; undefined if there is none of that name. The first of several counts, and quotes around a value do not, as in the
 * parsers that apps use.
 */
export function cookieOf({ fields }: Pick<RequestHead, 'fields'>, name: string): string | undefined {
  for (const field of fields.get('cookie') ?? []) {
    for (const pair of field.split(';')) {
      const equals = pair.indexOf('=')
      if (equals === -1 || trimBlanks(pair.slice(0, equals)) !== name) continue
      const value = trimBlanks(pair.slice(equals + 1))
      return value.length > 1 && value.startsWith('"') && value.endsWith('"') ? value.slice(1, -1) : value
    }
  }
  return undefined
}
