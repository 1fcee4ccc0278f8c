import type { Server } from 'node:http'
import { Socket } from 'node:net'
import { poll, POLLIN } from '@baton/native-sendmsg'

/** Node's own methods of a server that speaks HTTP/1. */
type Http1Server = Pick<Server, 'closeIdleConnections'>

/**
 * How long a connection must have been idle before it is closed, in milliseconds: a request that is under way when draining
 * begins arrives sooner.
 */
const QUIET_MS = 500

/**
 * HTTP/1 connections of `server` that are between two requests, as Node's parser knows it: it has read nothing of the next one.
 * `closeIdleConnections()` is the only public way to ask, so what it would destroy is noted instead, for as long as the call
 * lasts. Node passes over those with an unfinished response; those whose response is not sent to its end are left out here.
 *
 * @param closeIdle Node's own `closeIdleConnections()` of it
 */
export function betweenRequests(
  server: Http1Server,
  closeIdle = () => server.closeIdleConnections(),
): Socket[] {
  const found: Socket[] = []
  const note = function (this: Socket): Socket {
    found.push(this)
    return this
  }
  // On the prototype: those that the server accepted by itself are known to Node alone. Nothing else runs meanwhile.
  const own = Object.getOwnPropertyDescriptor(Socket.prototype, 'destroy')
  Object.defineProperty(Socket.prototype, 'destroy', { value: note, configurable: true, writable: true })
  try {
    closeIdle()
  } finally {
    Reflect.deleteProperty(Socket.prototype, 'destroy')
    if (own !== undefined) Object.defineProperty(Socket.prototype, 'destroy', own)
  }
  return found.filter(({ writableLength }) => writableLength === 0)
}

/**
 * Closes those connections that are idle now and stay so for a moment. One that has received anything meanwhile, read or
 * not, is left alone: its answer will say `Connection: close`.
 *
 * @param idle asked now and again at the end
 */
export function closeWhenQuiet(idle: () => Iterable<Socket>): void {
  const before = new Map([...idle()].map((socket) => [socket, socket.bytesRead]))
  if (before.size === 0) return
  const close = () => {
    for (const socket of idle())
      if (before.get(socket) === socket.bytesRead && !hasUnread(socket)) socket.destroy()
  }
  // Behind the reads of this turn of the event loop: timers come before them.
  setTimeout(() => setImmediate(close), QUIET_MS)
}

/** Whether the kernel has something for it that Node has not read. */
function hasUnread(socket: Socket): boolean {
  const handle: unknown = Reflect.get(socket, '_handle')
  if (typeof handle !== 'object' || handle === null) return false
  const fd: unknown = Reflect.get(handle, 'fd')
  return typeof fd === 'number' && fd >= 0 && poll(fd, POLLIN) !== 0
}
