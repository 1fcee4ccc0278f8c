/**
 * The parts of a TLS ClientHello that routes depend on (RFC 8446, section 4.1.2; RFC 6066, section 3; RFC 7301). Pure: reads the bytes that it is
 * given, and keeps none of them.
 */
export interface ClientHello {
  /** Host name of the SNI extension in lower case, without a final dot; undefined if the client names none. */
  readonly sni: string | undefined
  /** Protocols that the client offers, in its order. */
  readonly alpn: readonly string[]
}

export type HelloReading =
  /** Too few bytes: nothing can be decided before there are `bytes` of them. */
  | { readonly state: 'more'; readonly bytes: number }
  | { readonly state: 'found'; readonly hello: ClientHello }
  /** The bytes do not begin a ClientHello, or begin a malformed one. */
  | { readonly state: 'not-tls' }

const RECORD_HEADER = 5
const HANDSHAKE = 22
/** Maximum payload of an unencrypted record (RFC 8446, section 5.1). */
const MAX_RECORD = 16_384
const MESSAGE_HEADER = 4
/** Where the body of the message begins in the first record. */
const BODY = RECORD_HEADER + MESSAGE_HEADER
const CLIENT_HELLO = 1
const RANDOM_END = 34
const SERVER_NAME = 0
const HOST_NAME = 0
const MAX_NAME = 255
const ALPN = 16

const NOT_TLS: HelloReading = { state: 'not-tls' }

/**
 * Reads the ClientHello at the start of `bytes`: everything that has been received, in one TLS record or in several. Answers only once the
 * whole message is there, because a server cannot answer sooner either.
 */
export function readClientHello(bytes: Buffer): HelloReading {
  const end = endOfOnly(bytes)
  return end === undefined ? gather(bytes) : readMessage(bytes, BODY, end)
}

/** Where the message ends if it is all there, in the first record, as almost all are; otherwise undefined. */
function endOfOnly(bytes: Buffer): number | undefined {
  if (bytes.length < BODY || !beginsRecord(bytes, 0) || bytes[RECORD_HEADER] !== CLIENT_HELLO)
    return undefined
  const length = bytes.readUInt16BE(3)
  const size = MESSAGE_HEADER + bytes.readUIntBE(RECORD_HEADER + 1, 3)
  const end = RECORD_HEADER + size
  return length <= MAX_RECORD && size <= length && end <= bytes.length ? end : undefined
}

function gather(bytes: Buffer): HelloReading {
  const parts: Buffer[] = []
  let gathered = 0
  /** Bytes of the message; unknown until its header is there. */
  let size: number | undefined
  for (let at = 0; ;) {
    if (!beginsRecord(bytes, at)) return NOT_TLS
    if (at + RECORD_HEADER > bytes.length) return { state: 'more', bytes: at + RECORD_HEADER }
    const length = bytes.readUInt16BE(at + 3)
    if (length === 0 || length > MAX_RECORD) return NOT_TLS
    const end = at + RECORD_HEADER + length
    const part = bytes.subarray(at + RECORD_HEADER, end)
    parts.push(part)
    gathered += part.length
    if (size === undefined) {
      const first = parts.length === 1 ? part : Buffer.concat(parts, Math.min(gathered, MESSAGE_HEADER))
      if (first.length > 0 && first[0] !== CLIENT_HELLO) return NOT_TLS
      if (first.length >= MESSAGE_HEADER) size = MESSAGE_HEADER + first.readUIntBE(1, 3)
    }
    if (size !== undefined && gathered >= size) {
      const message = parts.length === 1 ? part : Buffer.concat(parts, size)
      return readMessage(message, MESSAGE_HEADER, size)
    }
    if (end > bytes.length) return { state: 'more', bytes: end }
    at = end
  }
}

/** As far as its bytes are there: type, and the version of the record layer, whose minor number says nothing. */
function beginsRecord(bytes: Buffer, at: number): boolean {
  const type = bytes[at]
  const major = bytes[at + 1]
  const minor = bytes[at + 2]
  return (
    (type === undefined || type === HANDSHAKE) &&
    (major === undefined || major === 3) &&
    (minor === undefined || minor <= 4)
  )
}

function readMessage(bytes: Buffer, from: number, to: number): HelloReading {
  const hello = new Fields(bytes, from, to)
  hello.skip(RANDOM_END)
  // legacy_session_id, cipher_suites, legacy_compression_methods.
  hello.skip(hello.number(1))
  hello.skip(hello.number(2))
  hello.skip(hello.number(1))
  let sni: string | undefined
  let alpn: string[] = []
  const seen = new Types()
  // A hello of TLS 1.2 may have no extensions at all.
  const extensions = hello.empty ? hello : hello.vector(2)
  while (!extensions.empty && !extensions.failed) {
    const type = extensions.number(2)
    const isRead = type === SERVER_NAME || type === ALPN
    const data = isRead ? extensions.vector(2) : undefined
    if (data === undefined) extensions.skip(extensions.number(2))
    if (extensions.failed) break
    // Two of one kind are forbidden (RFC 8446, section 4.2), and would be read in two ways.
    if (!seen.add(type)) return NOT_TLS
    if (data === undefined) continue
    if (type === SERVER_NAME) {
      sni = readServerName(data)
      if (sni === undefined) return NOT_TLS
    } else alpn = readProtocols(data)
    if (data.failed) return NOT_TLS
  }
  if (hello.failed || extensions.failed || !hello.empty) return NOT_TLS
  return { state: 'found', hello: { sni, alpn } }
}

/** The one host name of the list; undefined if there is none, or if it is no name. */
function readServerName(data: Fields): string | undefined {
  const list = data.vector(2)
  const type = list.number(1)
  const length = list.number(2)
  const name = list.text(length)
  if (data.failed || list.failed || !data.empty || !list.empty || type !== HOST_NAME) return undefined
  if (length === 0 || length > MAX_NAME) return undefined
  for (let at = 0; at < length; at++) {
    const code = name.charCodeAt(at)
    if (code <= 0x20 || code >= 0x7f) return undefined
  }
  return (name.endsWith('.') ? name.slice(0, -1) : name).toLowerCase()
}

function readProtocols(data: Fields): string[] {
  const list = data.vector(2)
  const found: string[] = []
  while (!list.empty && !list.failed) found.push(list.text(list.number(1)))
  if (list.failed || !data.empty) data.fail()
  return found
}

/** Types of extensions. Nearly all are small numbers, which need no set. */
class Types {
  #low = 0
  #high = 0
  #others: Set<number> | undefined

  /** False: it is there already. */
  add(type: number): boolean {
    if (type >= 64) {
      this.#others ??= new Set()
      const { size } = this.#others
      return this.#others.add(type).size > size
    }
    const bit = 1 << (type & 31)
    const before = type < 32 ? this.#low : this.#high
    if (type < 32) this.#low |= bit
    else this.#high |= bit
    return (before & bit) === 0
  }
}

/** A cursor over the vectors of a TLS message. Reading past the end sets `failed`, and yields nothing. */
class Fields {
  readonly #bytes: Buffer
  readonly #end: number
  #at: number
  #failed = false

  constructor(bytes: Buffer, from: number, to: number) {
    this.#bytes = bytes
    this.#at = from
    this.#end = to
  }

  get failed(): boolean {
    return this.#failed
  }

  get empty(): boolean {
    return this.#at === this.#end
  }

  fail(): void {
    this.#failed = true
  }

  skip(count: number): void {
    this.#take(count)
  }

  number(size: 1 | 2): number {
    const at = this.#take(size)
    if (at === undefined) return 0
    const first = this.#bytes[at] as number
    return size === 1 ? first : (first << 8) | (this.#bytes[at + 1] as number)
  }

  /** A vector whose length stands before it, in `size` bytes. */
  vector(size: 1 | 2): Fields {
    const length = this.number(size)
    const at = this.#take(length)
    return at === undefined ? new Fields(this.#bytes, 0, 0) : new Fields(this.#bytes, at, at + length)
  }

  /** `count` bytes as Latin-1. */
  text(count: number): string {
    const at = this.#take(count)
    return at === undefined ? '' : this.#bytes.toString('latin1', at, at + count)
  }

  /** Where they begin; undefined if they are not there. */
  #take(count: number): number | undefined {
    const at = this.#at
    if (this.#failed || at + count > this.#end) {
      this.#failed = true
      return undefined
    }
    this.#at = at + count
    return at
  }
}
