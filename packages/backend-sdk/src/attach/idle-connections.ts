import type { Server } from 'node:http'
import { Socket } from 'node:net'
import { poll, POLLIN } from '@baton/native-sendmsg'

/** A server that speaks HTTP/1: the one method that is needed of it. */
type Http1Server = Pick<Server, 'closeIdleConnections'>

/**
 * How long a connection must have been idle before it is closed. A request that is already on the network when draining begins
 * arrives sooner.
 */
const QUIET_MS = 500

/**
 * HTTP/1 connections of `server` that are between two requests: Node's parser has read nothing of the next one. The only public
 * way to find them is `closeIdleConnections()`, so during that call `destroy` records the sockets instead of destroying them. Node
 * skips connections with an unfinished response; this function also skips those whose response is not fully sent.
 *
 * @param closeIdle Node's own `closeIdleConnections()` of it
 */
export function betweenRequests(
  server: Http1Server,
  closeIdle = () => server.closeIdleConnections(),
): Socket[] {
  const found: Socket[] = []
  const record = function (this: Socket): Socket {
    found.push(this)
    return this
  }
  // On the prototype, because only Node knows the sockets that the server accepted itself. No other code runs meanwhile.
  const own = Object.getOwnPropertyDescriptor(Socket.prototype, 'destroy')
  Object.defineProperty(Socket.prototype, 'destroy', { value: record, configurable: true, writable: true })
  try {
    closeIdle()
  } finally {
    Reflect.deleteProperty(Socket.prototype, 'destroy')
    if (own !== undefined) Object.defineProperty(Socket.prototype, 'destroy', own)
  }
  return found.filter(({ writableLength }) => writableLength === 0)
}

/**
 * Closes connections that are idle now and still idle `QUIET_MS` later. One that has received data meanwhile, read or unread, is
 * left open: its response will carry `Connection: close`.
 *
 * @param idle returns the idle connections; called now and once more at the end
 */
export function closeWhenQuiet(idle: () => Iterable<Socket>): void {
  const before = new Map([...idle()].map((socket) => [socket, socket.bytesRead]))
  if (before.size === 0) return
  const close = () => {
    for (const socket of idle())
      if (before.get(socket) === socket.bytesRead && !hasUnread(socket)) socket.destroy()
  }
  // setImmediate: after the reads of this event-loop turn, which come after timers.
  setTimeout(() => setImmediate(close), QUIET_MS)
}

/** Whether the kernel holds data or an end that Node has not read. */
export function hasUnread(socket: Socket): boolean {
  const handle: unknown = Reflect.get(socket, '_handle')
  if (typeof handle !== 'object' || handle === null) return false
  const fd: unknown = Reflect.get(handle, 'fd')
  return typeof fd === 'number' && fd >= 0 && poll(fd, POLLIN) !== 0
}
