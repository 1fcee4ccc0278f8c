import { isIPv4, isIPv6 } from 'node:net'
import { AF_INET, AF_INET6, AF_UNIX, SOCKADDR_UN_SIZE, SUN_PATH_SIZE } from './abi.ts'
import { lazyArena, type Arena } from './arena.ts'
import { EINVAL, ENAMETOOLONG } from './errno.ts'
import { NativeError } from './errors.ts'
import { libc } from './libc.ts'

/** The address that a socket is bound or connected to. */
export interface SocketAddress {
  readonly family: 'IPv4' | 'IPv6' | 'unix'
  /** An IP address as Node formats it, a path, `\0name` for an abstract socket, or '' for an unnamed one. */
  readonly address: string
  /** 0 for a Unix socket. */
  readonly port: number
}

/** Layout of an address in an arena: `socklen_t` at 0, `struct sockaddr` at 8. */
export const SOCKADDR_LENGTH = 0
export const SOCKADDR = 8
/** Fits any family, including the kernel's padding (`struct __kernel_sockaddr_storage`). */
export const SOCKADDR_CAPACITY = 128

/** Room for one address of any family. */
export const addressArena = lazyArena(SOCKADDR + SOCKADDR_CAPACITY)

/** Sets the length to the capacity, before accept4, getsockname or getpeername fill in the address at `at`. */
export function resetAddress(arena: Arena, at = 0): void {
  arena.words[(at + SOCKADDR_LENGTH) / 4] = SOCKADDR_CAPACITY
}

/** The address of an accepted connection. Formatted as text only when it is read. */
class ParsedAddress implements SocketAddress {
  readonly family: SocketAddress['family']
  readonly port: number
  #raw: Buffer | number
  #text: string | undefined

  constructor(family: SocketAddress['family'], raw: Buffer | number, port: number) {
    this.family = family
    this.#raw = raw
    this.port = port
  }

  get address(): string {
    return (this.#text ??= this.#format())
  }

  #format(): string {
    const raw = this.#raw
    if (typeof raw === 'number')
      return `${raw & 255}.${(raw >>> 8) & 255}.${(raw >>> 16) & 255}.${raw >>> 24}`
    return this.family === 'unix' ? formatPath(raw) : formatIPv6(raw)
  }

  /** See `packAddress`. */
  pack(target: Buffer, at: number): void {
    const raw = this.#raw
    if (typeof raw !== 'number') {
      if (this.family === 'IPv6') raw.copy(target, at + PACKED_HOST)
      return
    }
    target[at + PACKED_HOST] = raw
    target[at + PACKED_HOST + 1] = raw >>> 8
    target[at + PACKED_HOST + 2] = raw >>> 16
    target[at + PACKED_HOST + 3] = raw >>> 24
  }

  toJSON(): SocketAddress {
    return { family: this.family, address: this.address, port: this.port }
  }
}

/** Bytes of a packed address: family, an unused byte, port (2), and an IPv6 host with its scope (20). */
export const PACKED_ADDRESS = 24
const PACKED_PORT = 2
const PACKED_HOST = 4
const FAMILIES = ['unix', 'IPv4', 'IPv6'] as const

/**
 * Writes an address into `PACKED_ADDRESS` bytes of `target` without formatting it as text, to store many of them. The path of a Unix
 * socket is omitted.
 *
 * @throws {NativeError} EINVAL if the host is not an IP address of its family
 */
export function packAddress(address: SocketAddress, target: Buffer, at: number): void {
  const { family, port } = address
  target[at] = family === 'IPv4' ? 1 : family === 'IPv6' ? 2 : 0
  target[at + PACKED_PORT] = port
  target[at + PACKED_PORT + 1] = port >>> 8
  if (address instanceof ParsedAddress) return address.pack(target, at)
  if (family === 'unix') return
  const arena = addressArena()
  const length = writeInternetAddress(arena, address.address, port)
  resetAddress(arena)
  arena.words[SOCKADDR_LENGTH / 4] = length
  const parsed = parseAddress(arena)
  if (parsed instanceof ParsedAddress) parsed.pack(target, at)
}

/** Reads what `packAddress` wrote. */
export function unpackAddress(packed: Buffer, at: number): SocketAddress {
  const family = FAMILIES[packed[at] ?? 0] ?? 'unix'
  const port = packed.readUInt16LE(at + PACKED_PORT)
  const host = at + PACKED_HOST
  if (family === 'unix') return { family, address: '', port: 0 }
  if (family === 'IPv4') return new ParsedAddress(family, packed.readInt32LE(host), port).toJSON()
  return new ParsedAddress(family, packed.subarray(host, at + PACKED_ADDRESS), port).toJSON()
}

/** Parses the address in `arena`. Copies what it needs, so the arena can be reused immediately. */
export function parseAddress(arena: Arena, at = 0): SocketAddress {
  const { buffer } = arena
  const length = Math.min(arena.words[(at + SOCKADDR_LENGTH) / 4] ?? 0, SOCKADDR_CAPACITY)
  const start = at + SOCKADDR
  const family = length < 2 ? AF_UNIX : buffer.readUInt16LE(start)
  // sockaddr_in: port (big-endian) at 2, address at 4; sockaddr_in6: port at 2, address at 8, scope at 24.
  if (family === AF_INET) {
    // Read as signed: an unsigned number above 2^31 would be a heap object in V8.
    return new ParsedAddress('IPv4', buffer.readInt32LE(start + 4), buffer.readUInt16BE(start + 2))
  }
  if (family === AF_INET6) {
    const raw = Buffer.from(buffer.subarray(start + 8, start + 28))
    return new ParsedAddress('IPv6', raw, buffer.readUInt16BE(start + 2))
  }
  return new ParsedAddress('unix', Buffer.from(buffer.subarray(start + 2, start + Math.max(2, length))), 0)
}

/**
 * RFC 5952 format, as in inet_ntop(3) and therefore `socket.remoteAddress`. A scope is appended as a number (RFC
 * 4007).
 */
function formatIPv6(raw: Buffer): string {
  const groups = Array.from({ length: 8 }, (_, index) => raw.readUInt16BE(index * 2))
  const mapped = groups[5] === 0xffff && groups.slice(0, 5).every((group) => group === 0)
  const text = mapped ? `::ffff:${raw.subarray(12, 16).join('.')}` : compress(groups)
  const scope = raw.readUInt32LE(16)
  return scope === 0 ? text : `${text}%${scope}`
}

function compress(groups: readonly number[]): string {
  let start = -1
  let length = 1
  for (let at = 0; at < 8; at++) {
    let end = at
    while (end < 8 && groups[end] === 0) end++
    if (end - at > length) {
      start = at
      length = end - at
    }
  }
  const hex = groups.map((group) => group.toString(16))
  if (start === -1) return hex.join(':')
  return `${hex.slice(0, start).join(':')}::${hex.slice(start + length).join(':')}`
}

/** The kernel may or may not count a path's terminating NUL; a leading one marks an abstract name (unix(7)). */
function formatPath(raw: Buffer): string {
  if (raw.length === 0) return ''
  const end = raw[0] === 0 ? raw.length : raw.indexOf(0)
  return raw.toString('utf8', 0, end === -1 ? raw.length : end)
}

/** `host:port`, with brackets around an IPv6 address. */
export const formatEndpoint = (host: string, port: number): string =>
  isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`

/**
 * Writes a TCP address at SOCKADDR and returns its length in bytes. `host` is an IP address; an IPv6 address
 * may have a zone (`fe80::1%eth0`). Throws NativeError EINVAL, as bind(2) would, for anything else.
 */
export function writeInternetAddress(arena: Arena, host: string, port: number): number {
  const { buffer, address } = arena
  const [literal = '', zone] = host.split('%', 2)
  const scope = zone === undefined ? 0 : scopeOf(zone)
  const valid = Number.isInteger(port) && port >= 0 && port <= 65_535 && scope !== undefined
  buffer.fill(0, SOCKADDR)
  buffer.writeUInt16LE(isIPv4(host) ? AF_INET : AF_INET6, SOCKADDR)
  if (valid && isIPv4(host)) {
    buffer.writeUInt16BE(port, SOCKADDR + 2)
    libc.inet_pton(AF_INET, literal, address + SOCKADDR + 4)
    return 16
  }
  if (valid && isIPv6(host)) {
    buffer.writeUInt16BE(port, SOCKADDR + 2)
    libc.inet_pton(AF_INET6, literal, address + SOCKADDR + 8)
    buffer.writeUInt32LE(scope, SOCKADDR + 24)
    return 28
  }
  throw new NativeError('bind', EINVAL, { address: formatEndpoint(host, port) })
}

/** Interface index of a zone; undefined if there is no such interface. */
function scopeOf(zone: string): number | undefined {
  return /^\d+$/.test(zone) ? Number(zone) : libc.if_nametoindex(zone) || undefined
}

/** Writes a Unix address at SOCKADDR and returns its length in bytes. ENAMETOOLONG for a path of 108 bytes or more. */
export function writeUnixAddress(arena: Arena, syscall: string, path: string): number {
  const bytes = Buffer.from(path)
  const abstract = bytes[0] === 0
  if (bytes.length === 0 || (!abstract && bytes.includes(0)))
    throw new NativeError(syscall, EINVAL, { path, fd: -1 })
  if (bytes.length + (abstract ? 0 : 1) > SUN_PATH_SIZE)
    throw new NativeError(syscall, ENAMETOOLONG, { path, fd: -1 })
  arena.buffer.fill(0, SOCKADDR, SOCKADDR + SOCKADDR_UN_SIZE)
  arena.buffer.writeUInt16LE(AF_UNIX, SOCKADDR)
  bytes.copy(arena.buffer, SOCKADDR + 2)
  // The length delimits an abstract name; a path ends with a NUL.
  return 2 + bytes.length + (abstract ? 0 : 1)
}
