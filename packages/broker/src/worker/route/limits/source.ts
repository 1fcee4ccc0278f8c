import { isIPv4 } from 'node:net'

/** The unit that limits apply to: an IPv4 address, as a number, or the first 64 bits of an IPv6 address, as 16 hexadecimal digits. */
export type Source = number | string

/** The other end of a TCP connection: its address and port. */
export type Peer = number | string

/** An address: a number, or 32 hexadecimal digits. */
type Host = number | string

const IPV6_BYTES = 16
const SOURCE_BYTES = 8
/** The first bytes of an IPv4 address that an IPv6 socket shows. */
const MAPPED = Buffer.from('00000000000000000000ffff', 'hex')

export function sourceOf(address: string): Source {
  const host = hostOf(address)
  return typeof host === 'number' ? host : host.slice(0, 2 * SOURCE_BYTES)
}

export function peerOf(address: string, port: number): Peer {
  return peer(hostOf(address), port)
}

/** The same for an address of 4 or 16 bytes, in a list of connections. */
export function sourceAt(bytes: Buffer, at: number, family: 'IPv4' | 'IPv6'): Source {
  return ipv4At(bytes, at, family) ?? bytes.toString('hex', at, at + SOURCE_BYTES)
}

export function peerAt(bytes: Buffer, at: number, family: 'IPv4' | 'IPv6', port: number): Peer {
  return peer(ipv4At(bytes, at, family) ?? bytes.toString('hex', at, at + IPV6_BYTES), port)
}

function peer(host: Host, port: number): Peer {
  return typeof host === 'number' ? host * 65_536 + port : `${host}:${port}`
}

function ipv4At(bytes: Buffer, at: number, family: 'IPv4' | 'IPv6'): number | undefined {
  if (family === 'IPv4') return bytes.readUInt32BE(at)
  // Cheaper than a comparison of all twelve bytes, for nearly all others.
  if (bytes.readUInt32BE(at + 8) !== 0xffff || MAPPED.compare(bytes, at, at + MAPPED.length) !== 0)
    return undefined
  return bytes.readUInt32BE(at + MAPPED.length)
}

function hostOf(address: string): Host {
  const [text = ''] = address.split('%')
  if (isIPv4(text)) return text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
  const [left = '', right] = text.split('::')
  const head = groupsOf(left)
  const tail = right === undefined ? [] : groupsOf(right)
  const groups = [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail]
  const [, , , , , mark, high = 0, low = 0] = groups
  if (mark === 0xffff && groups.slice(0, 5).every((group) => group === 0)) return high * 65_536 + low
  return groups.map((group) => group.toString(16).padStart(4, '0')).join('')
}

/** The 16-bit groups of a part of an IPv6 address, which may end like an IPv4 address. */
function groupsOf(part: string): number[] {
  if (part === '') return []
  return part.split(':').flatMap((group) => {
    if (!group.includes('.')) return [Number.parseInt(group, 16)]
    const [a = 0, b = 0, c = 0, d = 0] = group.split('.').map(Number)
    return [a * 256 + b, c * 256 + d]
  })
}
