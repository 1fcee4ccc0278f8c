import { isIPv4, isIPv6 } from 'node:net'
import { PACKED_ADDRESS, type SocketAddress, unpackAddress } from '@baton/native-sendmsg'
import { crc32c } from './crc32c.ts'

/**
 * The header of the PROXY protocol, version 1 or 2, with which a load balancer names its client
 * (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt). Pure: keeps no bytes.
 */
export interface IncomingProxyHeader {
  /** Bytes to consume: exactly the header. */
  readonly length: number
  /**
   * The client, and the address that it connected to. Undefined if the header names none: the connection is the sender's own (LOCAL), or of a
   * kind without addresses (UNKNOWN, UNSPEC). It is served under the address of the real peer.
   */
  readonly addresses: ProxiedAddresses | undefined
}

export interface ProxiedAddresses {
  readonly source: SocketAddress
  readonly destination: SocketAddress
}

export type ProxyReading =
  /** Nothing can be decided before there are `bytes` of them. */
  | { readonly state: 'more'; readonly bytes: number }
  | { readonly state: 'found'; readonly header: IncomingProxyHeader }
  /** The connection begins with something else. */
  | { readonly state: 'none' }
  /** It begins like a header, and is none. */
  | { readonly state: 'malformed' }

/** Longest header that is accepted, in bytes; HAProxy's are below 1,000. */
export const MAX_INCOMING_HEADER = 16 * 1024

const SIGNATURE = Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1')
const BINARY_START = 16
const TEXT_START = Buffer.from('PROXY ')
/** With its CRLF; from the specification. */
const MAX_TEXT = 107
const LF = 0x0a

const UNIX_PATH = 108
const TLV_HEADER = 3
const CRC32C = 0x03

const NONE: ProxyReading = { state: 'none' }
const MALFORMED: ProxyReading = { state: 'malformed' }

/** Reads the header at the start of `bytes`: everything that has been received. */
export function readProxyHeader(bytes: Buffer): ProxyReading {
  if (bytes.length === 0) return { state: 'more', bytes: 1 }
  if (bytes[0] === SIGNATURE[0]) return readBinary(bytes)
  return readText(bytes)
}

/** Whether the bytes are the start of `start`, or begin with it. */
function begins(bytes: Buffer, start: Buffer): boolean {
  const known = Math.min(bytes.length, start.length)
  return bytes.compare(start, 0, known, 0, known) === 0
}

function readText(bytes: Buffer): ProxyReading {
  if (!begins(bytes, TEXT_START)) return NONE
  const feed = bytes.subarray(0, MAX_TEXT).indexOf(LF)
  if (feed === -1) return bytes.length < MAX_TEXT ? { state: 'more', bytes: bytes.length + 1 } : MALFORMED
  const line = bytes.toString('latin1', 0, feed + 1)
  if (!line.endsWith('\r\n')) return MALFORMED
  const length = feed + 1
  const words = line.slice(TEXT_START.length, -2).split(' ')
  const [kind, source = '', destination = '', sourcePort = '', destinationPort = ''] = words
  // Everything behind it is to be ignored.
  if (kind === 'UNKNOWN') return { state: 'found', header: { length, addresses: undefined } }
  const isOfFamily = kind === 'TCP4' ? isIPv4 : kind === 'TCP6' ? isIPv6 : undefined
  const ports = [portOf(sourcePort), portOf(destinationPort)] as const
  if (isOfFamily === undefined || words.length !== 5) return MALFORMED
  if (!isOfFamily(source) || !isOfFamily(destination)) return MALFORMED
  if (source.includes('%') || destination.includes('%')) return MALFORMED
  if (ports[0] === undefined || ports[1] === undefined) return MALFORMED
  const family = kind === 'TCP4' ? 'IPv4' : 'IPv6'
  const addresses = {
    source: canonical({ family, address: source, port: ports[0] }),
    destination: canonical({ family, address: destination, port: ports[1] }),
  }
  return { state: 'found', header: { length, addresses } }
}

function portOf(text: string): number | undefined {
  if (!/^(?:0|[1-9]\d{0,4})$/.test(text)) return undefined
  const port = Number(text)
  return port <= 65_535 ? port : undefined
}

function readBinary(bytes: Buffer): ProxyReading {
  if (!begins(bytes, SIGNATURE)) return NONE
  if (bytes.length < BINARY_START) return { state: 'more', bytes: BINARY_START }
  const version = bytes.readUInt8(12) >> 4
  const command = bytes.readUInt8(12) & 15
  const length = BINARY_START + bytes.readUInt16BE(14)
  if (version !== 2 || command > 1 || length > MAX_INCOMING_HEADER) return MALFORMED
  if (bytes.length < length) return { state: 'more', bytes: length }
  // LOCAL: what follows is to be skipped.
  if (command === 0) return { state: 'found', header: { length, addresses: undefined } }
  const family = bytes.readUInt8(13) >> 4
  const body = bytes.subarray(BINARY_START, length)
  const size = ADDRESS_BYTES[family] ?? 0
  if (body.length < size) return MALFORMED
  if (!tlvsAreSound(bytes.subarray(0, length), BINARY_START + size, family)) return MALFORMED
  return { state: 'found', header: { length, addresses: readAddresses(body, family) } }
}

/** Bytes of both addresses by family: unspecified, IPv4, IPv6, Unix. */
const ADDRESS_BYTES = [0, 12, 36, 2 * UNIX_PATH]

function readAddresses(body: Buffer, family: number): ProxiedAddresses | undefined {
  if (family === 3) {
    const path = (at: number): SocketAddress => ({
      family: 'unix',
      address: unixPath(body.subarray(at, at + UNIX_PATH)),
      port: 0,
    })
    return { source: path(0), destination: path(UNIX_PATH) }
  }
  if (family !== 1 && family !== 2) return undefined
  const size = family === 1 ? 4 : 16
  const address = (index: number) =>
    socketAddress(
      family,
      body.subarray(index * size, (index + 1) * size),
      body.readUInt16BE(2 * size + 2 * index),
    )
  return { source: address(0), destination: address(1) }
}

/** The name up to its first NUL; of an abstract name, without the NULs that fill its field. */
function unixPath(field: Buffer): string {
  if (field[0] !== 0) return field.toString('utf8', 0, field.includes(0) ? field.indexOf(0) : field.length)
  let end = field.length
  while (end > 0 && field[end - 1] === 0) end--
  return field.toString('utf8', 0, end)
}

/** Whether the TLVs fill the header exactly, and its checksum, if it has one, is right. Those of an unknown family begin at an unknown place. */
function tlvsAreSound(header: Buffer, from: number, family: number): boolean {
  if (family >= ADDRESS_BYTES.length) return true
  for (let at = from; at < header.length;) {
    if (at + TLV_HEADER > header.length) return false
    const value = at + TLV_HEADER
    const end = value + header.readUInt16BE(at + 1)
    if (end > header.length) return false
    if (header[at] === CRC32C) {
      if (end - value !== 4) return false
      const copy = Buffer.from(header)
      copy.fill(0, value, end)
      if (crc32c(copy) !== header.readUInt32BE(value)) return false
    }
    at = end
  }
  return true
}

function socketAddress(family: 1 | 2, host: Buffer, port: number): SocketAddress {
  const packed = Buffer.alloc(PACKED_ADDRESS)
  packed[0] = family
  packed.writeUInt16LE(port, 2)
  host.copy(packed, 4)
  return unpackAddress(packed, 0)
}

/** An address as Node writes it: `2001:db8::1` for `2001:DB8:0::1`. */
function canonical({ family, address, port }: SocketAddress): SocketAddress {
  if (family === 'IPv4') return { family, address, port }
  const groups = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const halves = groups.map((half) => (half === '' ? [] : half.split(':')))
  const [head = [], tail = []] = halves
  const fill = Array.from({ length: 8 - head.length - tail.length }, () => '0')
  const host = Buffer.alloc(16)
  ;[...head, ...fill, ...tail].forEach((group, index) =>
    host.writeUInt16BE(Number.parseInt(group, 16), 2 * index),
  )
  return socketAddress(2, host, port)
}
