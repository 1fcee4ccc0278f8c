import { NO_KEEP_ALIVE_LIMIT } from '@baton/backend-sdk/protocol'
import { isIPv4, isIPv6 } from 'node:net'
import type { SocketAddress } from '@baton/native-sendmsg'

/** The client of a connection that a load balancer has made on its behalf, and the address that it connected to: from a PROXY header. */
export interface Proxied {
  readonly source: SocketAddress
  readonly destination: SocketAddress
}

/** Its form in an offer, under `proxy`. The backend's SDK shows these as the addresses of the socket. */
interface ProxyMeta {
  readonly family: 'IPv4' | 'IPv6'
  readonly address: string
  readonly port: number
  readonly localAddress: string
  readonly localPort: number
}

/** Description of a connection in its offer. @param now milliseconds of the clock of `quietUntil` */
export function metaOf(
  { proxied, quietUntil }: { readonly proxied?: Proxied | undefined; readonly quietUntil?: number },
  now: number,
): { readonly proxy?: ProxyMeta; readonly idleFor?: number } | undefined {
  const proxy = proxyMetaOf(proxied)
  if (quietUntil === undefined) return proxy
  const idleFor = Number.isFinite(quietUntil)
    ? Math.max(0, Math.round(quietUntil - now))
    : NO_KEEP_ALIVE_LIMIT
  return { ...proxy, idleFor }
}

function proxyMetaOf(proxied: Proxied | undefined): { readonly proxy: ProxyMeta } | undefined {
  if (proxied === undefined) return undefined
  const { source, destination } = proxied
  if (source.family === 'unix') return undefined
  return {
    proxy: {
      family: source.family,
      address: source.address,
      port: source.port,
      localAddress: destination.address,
      localPort: destination.port,
    },
  }
}

/**
 * The inverse of `proxyMetaOf`, for what a backend sends back with a connection; undefined for anything else, such as two families, which no
 * header of a relay could name.
 */
export function proxiedOf(meta: Readonly<Record<string, unknown>> | undefined): Proxied | undefined {
  const proxy: Partial<Record<keyof ProxyMeta, unknown>> = Object(meta?.['proxy'])
  const source = addressOf(proxy.address, proxy.port)
  const destination = addressOf(proxy.localAddress, proxy.localPort)
  if (source === undefined || source.family !== destination?.family) return undefined
  return { source, destination }
}

function addressOf(address: unknown, port: unknown): SocketAddress | undefined {
  if (typeof address !== 'string' || typeof port !== 'number') return undefined
  if (!Number.isInteger(port) || port < 0 || port > 65_535) return undefined
  const family = isIPv4(address) ? 'IPv4' : isIPv6(address) ? 'IPv6' : undefined
  return family === undefined ? undefined : { family, address, port }
}
