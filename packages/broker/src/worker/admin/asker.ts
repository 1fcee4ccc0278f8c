import type { Socket } from 'node:net'

/**
 * Who sends a request, for the log: the address that it came from, and whether it had to show the token. Behind a Unix socket the
 * kernel would know the user, and Node has no public way to ask it.
 */
export function askerOf(socket: Socket, withToken: boolean): string {
  return `${peerOf(socket)} ${withToken ? 'with' : 'without'} a token`
}

function peerOf({ remoteAddress, remotePort, remoteFamily }: Socket): string {
  if (remoteAddress === undefined) return 'a Unix socket'
  return remoteFamily === 'IPv6' ? `[${remoteAddress}]:${remotePort}` : `${remoteAddress}:${remotePort}`
}
