import { ProxyHeaderError } from './errors.ts'
import { sealToken } from './secrecy.ts'

/**
 * The header at the start of a relay: PROXY protocol version 2
 * (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, section 2.2), with the client's address, and the one-time
 * token of the relay's OFFER in a TLV of a type reserved for applications (0xE0 to 0xEF).
 */
export interface ProxyHeader {
  /** The client's address and the one it connected to; undefined if it came over a Unix socket. */
  readonly addresses: ProxyAddresses | undefined
  /** 16 secret bytes, as in the OFFER; undefined if the header has none. */
  readonly token: Buffer | undefined
}

export interface ProxyAddresses {
  readonly family: 'IPv4' | 'IPv6'
  readonly source: string
  readonly sourcePort: number
  readonly destination: string
  readonly destinationPort: number
}

/** PP2_TYPE_MIN_CUSTOM. */
export const TOKEN_TLV = 0xe0

/** Baton's headers have at most about 100 bytes; a peer that announces more than this is not a broker. */
export const MAX_PROXY_HEADER_BYTES = 1024

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const FIXED = 16
const VERSION_PROXY = 0x21
const VERSION_LOCAL = 0x20
const FAMILIES = { IPv4: { byte: 0x11, address: 4 }, IPv6: { byte: 0x21, address: 16 } } as const
const UNSPECIFIED = 0x00
const TLV_HEADER = 3

export function encodeProxyHeader({ addresses, token }: ProxyHeader): Buffer {
  const block = addresses === undefined ? Buffer.alloc(0) : encodeAddresses(addresses)
  const tlv = token === undefined ? Buffer.alloc(0) : Buffer.alloc(TLV_HEADER + token.length)
  if (token !== undefined) {
    tlv.writeUInt8(TOKEN_TLV, 0)
    tlv.writeUInt16BE(token.length, 1)
    token.copy(tlv, TLV_HEADER)
  }
  const head = Buffer.alloc(FIXED)
  SIGNATURE.copy(head)
  head.writeUInt8(VERSION_PROXY, 12)
  head.writeUInt8(addresses === undefined ? UNSPECIFIED : FAMILIES[addresses.family].byte, 13)
  head.writeUInt16BE(block.length + tlv.length, 14)
  return Buffer.concat([head, block, tlv])
}

/**
 * Decodes a header at the start of `bytes`; undefined if it is incomplete. It has `length` bytes, and the client's data
 * follows.
 *
 * @throws {ProxyHeaderError} as soon as the bytes cannot be the start of a header
 */
export function decodeProxyHeader(bytes: Buffer): { header: ProxyHeader; length: number } | undefined {
  const known = Math.min(bytes.length, SIGNATURE.length)
  if (!bytes.subarray(0, known).equals(SIGNATURE.subarray(0, known)))
    throw new ProxyHeaderError('wrong signature')
  if (bytes.length < FIXED) return undefined
  const version = bytes.readUInt8(12)
  if (version !== VERSION_PROXY && version !== VERSION_LOCAL)
    throw new ProxyHeaderError('wrong version or command')
  const length = FIXED + bytes.readUInt16BE(14)
  if (length > MAX_PROXY_HEADER_BYTES)
    throw new ProxyHeaderError(`${length} bytes, at most ${MAX_PROXY_HEADER_BYTES}`)
  if (bytes.length < length) return undefined

  const family = bytes.readUInt8(13)
  const body = bytes.subarray(FIXED, length)
  const known4 = family === FAMILIES.IPv4.byte
  const known6 = family === FAMILIES.IPv6.byte
  if (!known4 && !known6 && family !== UNSPECIFIED)
    throw new ProxyHeaderError(`address family 0x${family.toString(16)}`)
  const size = known4 ? 12 : known6 ? 36 : 0
  if (body.length < size) throw new ProxyHeaderError('addresses are cut short')
  const addresses =
    size === 0 || version === VERSION_LOCAL ? undefined : decodeAddresses(body, known4 ? 'IPv4' : 'IPv6')
  return { header: { addresses, token: findToken(body.subarray(size)) }, length }
}

function findToken(tlvs: Buffer): Buffer | undefined {
  let token: Buffer | undefined
  for (let at = 0; at < tlvs.length;) {
    if (at + TLV_HEADER > tlvs.length) throw new ProxyHeaderError('a TLV is cut short')
    const end = at + TLV_HEADER + tlvs.readUInt16BE(at + 1)
    if (end > tlvs.length) throw new ProxyHeaderError('a TLV is cut short')
    // A copy, because the token outlives the chunk.
    if (tlvs.readUInt8(at) === TOKEN_TLV) token = sealToken(Buffer.from(tlvs.subarray(at + TLV_HEADER, end)))
    at = end
  }
  return token
}

function encodeAddresses({
  family,
  source,
  destination,
  sourcePort,
  destinationPort,
}: ProxyAddresses): Buffer {
  const parse = family === 'IPv4' ? parseIPv4 : parseIPv6
  const ports = Buffer.alloc(4)
  ports.writeUInt16BE(sourcePort, 0)
  ports.writeUInt16BE(destinationPort, 2)
  return Buffer.concat([parse(source), parse(destination), ports])
}

function decodeAddresses(body: Buffer, family: ProxyAddresses['family']): ProxyAddresses {
  const { address: size } = FAMILIES[family]
  const format = family === 'IPv4' ? formatIPv4 : formatIPv6
  return {
    family,
    source: format(body.subarray(0, size)),
    destination: format(body.subarray(size, 2 * size)),
    sourcePort: body.readUInt16BE(2 * size),
    destinationPort: body.readUInt16BE(2 * size + 2),
  }
}

function parseIPv4(text: string): Buffer {
  return Buffer.from(text.split('.').map(Number))
}

function formatIPv4(bytes: Buffer): string {
  return bytes.join('.')
}

/** Accepts every notation of an IPv6 address (RFC 4291, 2.2), and drops a zone. */
function parseIPv6(text: string): Buffer {
  const [address = ''] = text.split('%')
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(address)
  const plain = dotted === null ? address : `${dotted[1]}${hexPair(parseIPv4(dotted[2] as string))}`
  const [left = '', right] = plain.split('::')
  const head = hexGroups(left)
  const tail = right === undefined ? [] : hexGroups(right)
  const all = [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail]
  const bytes = Buffer.alloc(16)
  all.forEach((group, index) => bytes.writeUInt16BE(group, 2 * index))
  return bytes
}

function hexGroups(part: string): number[] {
  return part === '' ? [] : part.split(':').map((group) => Number.parseInt(group, 16))
}

function hexPair(bytes: Buffer): string {
  return `${bytes.readUInt16BE(0).toString(16)}:${bytes.readUInt16BE(2).toString(16)}`
}

/** As Node formats peer addresses: `::ffff:127.0.0.1` for mapped ones, otherwise RFC 5952. */
function formatIPv6(bytes: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => bytes.readUInt16BE(2 * index))
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return `::ffff:${formatIPv4(bytes.subarray(12))}`
  }
  let longest = { at: -1, length: 1 }
  for (let at = 0; at < 8; at++) {
    let length = 0
    while (groups[at + length] === 0) length += 1
    if (length > longest.length) longest = { at, length }
  }
  const hex = groups.map((group) => group.toString(16))
  if (longest.at === -1) return hex.join(':')
  return `${hex.slice(0, longest.at).join(':')}::${hex.slice(longest.at + longest.length).join(':')}`
}
