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
  if (rest.length > 0) socket.unshift(rest)
  return socket
}

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
