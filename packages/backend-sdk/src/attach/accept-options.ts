import type { Socket } from 'node:net'
import type { AttachableServer } from './server-kind.ts'

/**
 * `net.Server` remembers its options in properties that have no public reader; the names are the same in Node 20.18, 22,
 * 24 and 26 (lib/net.js). One that is missing counts as unset, which leaves the socket as the kernel gave it.
 */
type Option = 'allowHalfOpen' | 'pauseOnConnect' | 'noDelay' | 'keepAlive'

function isSet(server: AttachableServer, option: Option): boolean {
  return Reflect.get(server, option) === true
}

export function allowHalfOpen(server: AttachableServer): boolean {
  return isSet(server, 'allowHalfOpen')
}

/** What `net.Server` does to a socket between accept(2) and its `connection` event. */
export function applyAcceptOptions(server: AttachableServer, socket: Socket): void {
  if (isSet(server, 'noDelay')) socket.setNoDelay(true)
  if (isSet(server, 'keepAlive')) socket.setKeepAlive(true, keepAliveDelay(server))
  if (isSet(server, 'pauseOnConnect')) socket.pause()
}

/** Milliseconds, as the option is. The server keeps whole seconds, which is what TCP_KEEPIDLE takes. */
function keepAliveDelay(server: AttachableServer): number {
  const seconds: unknown = Reflect.get(server, 'keepAliveInitialDelay')
  return typeof seconds === 'number' ? seconds * 1000 : 0
}

/** `maxConnections = 0` means no limit in Node 20, and no connection since 21 (documented under `server.maxConnections`). */
const zeroIsNoLimit = Number.parseInt(process.versions.node, 10) < 21

/** `server.maxConnections`, or Infinity. The app may change it at any time, so it is read at each connection. */
export function connectionLimit(server: AttachableServer): number {
  const limit: unknown = server.maxConnections
  if (typeof limit !== 'number' || (limit === 0 && zeroIsNoLimit)) return Number.POSITIVE_INFINITY
  return limit
}
