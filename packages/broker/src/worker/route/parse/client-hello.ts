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
      return readMessage(message.subarray(MESSAGE_HEADER, size))
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

function readMessage(body: Buffer): HelloReading {
  const hello = new Fields(body)
  hello.skip(RANDOM_END)
  // legacy_session_id, cipher_suites, legacy_compression_methods.
  hello.vector(1)
  hello.vector(2)
  hello.vector(1)
  let sni: string | undefined
  let alpn: string[] = []
  const seen = new Set<number>()
  // A hello of TLS 1.2 may have no extensions at all.
  const extensions = hello.empty ? hello : new Fields(hello.vector(2))
  while (!extensions.empty && !extensions.failed) {
    const type = extensions.number(2)
    const data = new Fields(extensions.vector(2))
    if (extensions.failed) break
    // Two of one kind are forbidden (RFC 8446, section 4.2), and would be read in two ways.
    if (seen.has(type)) return NOT_TLS
    seen.add(type)
    if (type === SERVER_NAME) {
      sni = readServerName(data)
      if (sni === undefined) return NOT_TLS
    } else if (type === ALPN) alpn = readProtocols(data)
    if (data.failed) return NOT_TLS
  }
  if (hello.failed || extensions.failed || !hello.empty) return NOT_TLS
  return { state: 'found', hello: { sni, alpn } }
}

/** The one host name of the list; undefined if there is none, or if it is no name. */
function readServerName(data: Fields): string | undefined {
  const list = new Fields(data.vector(2))
  const type = list.number(1)
  const name = list.vector(2)
  if (data.failed || list.failed || !data.empty || !list.empty || type !== HOST_NAME) return undefined
  if (name.length === 0 || name.length > MAX_NAME) return undefined
  for (const byte of name) if (byte <= 0x20 || byte >= 0x7f) return undefined
  return name.toString('latin1').toLowerCase().replace(/\.$/, '')
}

function readProtocols(data: Fields): string[] {
  const list = new Fields(data.vector(2))
  const found: string[] = []
  while (!list.empty && !list.failed) found.push(list.vector(1).toString('latin1'))
  if (list.failed || !data.empty) data.fail()
  return found
}

const NONE = Buffer.alloc(0)

/** A cursor over the vectors of a TLS message. Reading past the end sets `failed`, and yields nothing. */
class Fields {
  readonly #bytes: Buffer
  #at = 0
  #failed = false

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get failed(): boolean {
    return this.#failed
  }

  get empty(): boolean {
    return this.#at === this.#bytes.length
  }

  fail(): void {
    this.#failed = true
  }

  skip(count: number): void {
    this.#take(count)
  }

  number(size: 1 | 2): number {
    const bytes = this.#take(size)
    return bytes.length === 0 ? 0 : bytes.readUIntBE(0, size)
  }

  /** A vector whose length stands before it, in `size` bytes. */
  vector(size: 1 | 2): Buffer {
    return this.#take(this.number(size))
  }

  #take(count: number): Buffer {
    const end = this.#at + count
    if (this.#failed || end > this.#bytes.length) {
      this.#failed = true
      return NONE
    }
    const taken = this.#bytes.subarray(this.#at, end)
    this.#at = end
    return taken
  }
}
