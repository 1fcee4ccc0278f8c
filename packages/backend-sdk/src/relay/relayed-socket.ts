import type { Socket } from 'node:net'
import type { IncomingRelay } from './relay-endpoint.ts'

const ADDRESSES = ['remoteFamily', 'remoteAddress', 'remotePort', 'localAddress', 'localPort'] as const

type Addresses = Partial<Record<(typeof ADDRESSES)[number], string | number | undefined>>

/** Makes the socket of a verified relay look as if the client had connected to this process. */
export function presentAsClient({ socket, addresses, rest }: IncomingRelay, allowHalfOpen: boolean): Socket {
  if (addresses !== undefined) {
    show(socket, {
      remoteFamily: addresses.family,
      remoteAddress: addresses.source,
      remotePort: addresses.sourcePort,
      localAddress: addresses.destination,
      localPort: addresses.destinationPort,
    })
  }
  socket.allowHalfOpen = allowHalfOpen
  // It throws for a socket that is not of TCP, which would end an app that resets a client. No reset can be sent through the relay.
  socket.resetAndDestroy = () => socket.destroy()
  if (rest.length > 0) socket.unshift(rest)
  return socket
}

/**
 * Makes the socket of a connection that came through a load balancer look as if the client itself had connected to this process: shows the
 * addresses that the broker has read in a PROXY header (`meta.proxy` of the offer), if it has.
 */
export function presentProxied(socket: Socket, meta: Readonly<Record<string, unknown>> | undefined): void {
  const proxy = proxyOf(meta)
  if (proxy === undefined) return
  show(socket, {
    remoteFamily: text(proxy['family']),
    remoteAddress: text(proxy['address']),
    remotePort: number(proxy['port']),
    localAddress: text(proxy['localAddress']),
    localPort: number(proxy['localPort']),
  })
}

/** Whether `presentProxied` shows other addresses than the socket's own. */
export function isProxied(meta: Readonly<Record<string, unknown>> | undefined): boolean {
  return proxyOf(meta) !== undefined
}

function proxyOf(meta: Readonly<Record<string, unknown>> | undefined): Record<string, unknown> | undefined {
  const proxy = meta?.['proxy']
  return typeof proxy === 'object' && proxy !== null ? (proxy as Record<string, unknown>) : undefined
}

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)
const number = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined)

/** Copies the addresses of `from` to `to`, such as a TLSSocket. */
export function copyAddresses(from: Socket, to: Socket): void {
  show(to, from)
}

/** Defines the properties on this instance only. */
function show(socket: Socket, addresses: Addresses): void {
  for (const name of ADDRESSES) {
    Object.defineProperty(socket, name, { value: addresses[name], configurable: true, enumerable: true })
  }
}
