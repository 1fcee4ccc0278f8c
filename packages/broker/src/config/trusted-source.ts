import { BlockList, isIPv4, isIPv6 } from 'node:net'

/** Peers whose PROXY header is believed: a network, or the user at the other end of a Unix socket. */
export type TrustedSource =
  | {
      readonly kind: 'network'
      readonly address: string
      readonly prefix: number
      readonly family: 'ipv4' | 'ipv6'
    }
  | { readonly kind: 'uid'; readonly uid: number }

const EXPECTED = 'expected a network like "10.0.0.0/8", an address, or "uid:1000" for a Unix socket'

/** @returns the source, or what is wrong with the text */
export function parseTrustedSource(text: string): TrustedSource | string {
  const [, digits] = /^uid:(\d{1,10})$/.exec(text) ?? []
  if (digits !== undefined) {
    const uid = Number(digits)
    return uid < 0xffff_ffff ? { kind: 'uid', uid } : `uid ${digits} is out of range (0 to 4294967294)`
  }
  const [address = '', length, ...more] = text.split('/')
  const family = isIPv4(address) ? 'ipv4' : isIPv6(address) && !address.includes('%') ? 'ipv6' : undefined
  if (family === undefined || more.length > 0) return EXPECTED
  const bits = family === 'ipv4' ? 32 : 128
  if (length === undefined) return { kind: 'network', address, prefix: bits, family }
  if (!/^\d{1,3}$/.test(length)) return EXPECTED
  const prefix = Number(length)
  if (prefix > bits) return `a prefix has at most ${bits} bits here, not ${length}`
  return { kind: 'network', address, prefix, family }
}

/** Answers whether an IP address belongs to one of the networks; mapped IPv4 addresses count as IPv4. */
export function networksOf(sources: readonly TrustedSource[]): (address: string) => boolean {
  const list = new BlockList()
  for (const source of sources)
    if (source.kind === 'network') list.addSubnet(source.address, source.prefix, source.family)
  return (address) => {
    const [plain = ''] = address.replace(/^::ffff:(?=\d+\.)/i, '').split('%')
    return list.check(plain, isIPv4(plain) ? 'ipv4' : 'ipv6')
  }
}
