import type { Socket } from 'node:net'
import type { AttachableServer } from './server-kind.ts'

/**
 * `net.Server` keeps its options in undocumented properties, with the same names in Node 20.18, 22, 24 and 26 (lib/net.js). A
 * missing one counts as unset; the socket then keeps the kernel's default.
 */
type Option = 'allowHalfOpen' | 'pauseOnConnect' | 'noDelay' | 'keepAlive'

function isSet(server: AttachableServer, option: Option): boolean {
  return Reflect.get(server, option) === true
}

export function allowHalfOpen(server: AttachableServer): boolean {
  return isSet(server, 'allowHalfOpen')
}

/** Does what `net.Server` does to a socket between accept(2) and the `connection` event. */
export function applyAcceptOptions(server: AttachableServer, socket: Socket): void {
  if (isSet(server, 'noDelay')) socket.setNoDelay(true)
  if (isSet(server, 'keepAlive')) socket.setKeepAlive(true, keepAliveDelay(server))
  if (isSet(server, 'pauseOnConnect')) socket.pause()
}

/** In milliseconds, like the option. The server stores whole seconds, the unit of TCP_KEEPIDLE. */
function keepAliveDelay(server: AttachableServer): number {
  const seconds: unknown = Reflect.get(server, 'keepAliveInitialDelay')
  return typeof seconds === 'number' ? seconds * 1000 : 0
}

/** `maxConnections = 0` means no limit in Node 20, and no connections since 21 (Node documentation of `server.maxConnections`). */
const zeroIsNoLimit = Number.parseInt(process.versions.node, 10) < 21

/** `server.maxConnections`, or Infinity. The app may change it at any time, so it is read for each connection. */
export function connectionLimit(server: AttachableServer): number {
  const limit: unknown = server.maxConnections
  if (typeof limit !== 'number' || (limit === 0 && zeroIsNoLimit)) return Number.POSITIVE_INFINITY
  return limit
}
