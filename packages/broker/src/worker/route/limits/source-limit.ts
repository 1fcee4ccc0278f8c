import { isIPv4 } from 'node:net'
import type { ListenerConfig } from '../../../config/config.ts'
import { clientAddress, type ClientConnection } from '../../connection/connection.ts'
import { TokenBuckets } from '../../registry/token-buckets.ts'

/** Sources that are remembered at a time, for each listener. */
const MAX_SOURCES = 65_536

/** How fast new connections of each source may come: of an IPv4 address, or an IPv6 network of 64 bits. */
export class SourceLimit {
  readonly #buckets: TokenBuckets | undefined

  constructor({ limits }: Pick<ListenerConfig, 'limits'>) {
    if (limits === null) return
    const { rate, burst } = limits.perSource
    const { perSecond } = rate
    this.#buckets = new TokenBuckets({
      perSecond,
      burst: burst ?? Math.max(1, Math.ceil(perSecond)),
      maxAccounts: MAX_SOURCES,
    })
  }

  /** Whether the connection may come in; it then counts. Clients of a Unix socket have no address, and no limit. @param now milliseconds of a monotonic clock */
  admits(connection: Pick<ClientConnection, 'peer' | 'proxied'>, now: number): boolean {
    if (this.#buckets === undefined) return true
    const { family, address } = clientAddress(connection)
    return family === 'unix' || this.#buckets.take(sourceOf(address), now) === undefined
  }
}

/** The IPv4 address, mapped ones included, or the first 64 bits of the IPv6 address. */
export function sourceOf(address: string): string {
  const [text = ''] = address.toLowerCase().split('%')
  const [left = '', right] = text.split('::')
  const head = groupsOf(left)
  const tail = right === undefined ? [] : groupsOf(right)
  if (isIPv4(text)) return text
  const groups = [...head, ...Array.from({ length: 8 - head.length - tail.length }, () => 0), ...tail]
  const [, , , , , mark, high = 0, low = 0] = groups
  if (mark === 0xffff && groups.slice(0, 5).every((group) => group === 0))
    return [high >> 8, high & 255, low >> 8, low & 255].join('.')
  return `${groups
    .slice(0, 4)
    .map((group) => group.toString(16))
    .join(':')}::/64`
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
