import type { Server, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { NativeError, poll, pollEach, POLLIN } from '@baton/native-sendmsg'
import { descriptorOf, notingDestroyed, OpenedSocket } from '../open-socket.ts'

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
 * @param known its connections, as far as they are known: those whose `destroy` an app has replaced are found, too, and not destroyed
 * @param areOurs none of its connections has a socket of another class than `openSocket` makes
 */
export function betweenRequests(
  server: Http1Server,
  closeIdle = () => server.closeIdleConnections(),
  known: Iterable<Duplex> = [],
  areOurs = false,
): Socket[] {
  const others: Socket[] = []
  const record = function (this: Socket): Socket {
    others.push(this)
    return this
  }
  let found: Socket[] = []
  const replaced = new Map<object, PropertyDescriptor | undefined>()
  const replace = (owner: object) => {
    const own = Object.getOwnPropertyDescriptor(owner, 'destroy')
    if (own?.configurable === false) return
    replaced.set(owner, own)
    Object.defineProperty(owner, 'destroy', { value: record, configurable: true, writable: true })
  }
  try {
    // On the prototype, because only Node knows the sockets that the server accepted itself. No other code runs meanwhile.
    if (!areOurs) replace(Socket.prototype)
    const ours: unknown = Reflect.get(OpenedSocket.prototype, 'destroy')
    for (const socket of known) if (socket.destroy !== record && socket.destroy !== ours) replace(socket)
    found = notingDestroyed(closeIdle)
  } finally {
    for (const [owner, own] of replaced) {
      if (own === undefined) Reflect.deleteProperty(owner, 'destroy')
      else Object.defineProperty(owner, 'destroy', own)
    }
  }
  return [...found, ...others].filter(({ writableLength }) => writableLength === 0)
}

/**
 * Makes `closeIdle` look at connections with an open answer too: Node passes over those whose `response.finished` is false, and
 * asks its parser about the others.
 */
export function asIfFinished(answers: Iterable<ServerResponse>, closeIdle: () => void): void {
  const open = [...answers].filter(({ finished }) => !finished)
  try {
    for (const answer of open) Reflect.set(answer, 'finished', true)
    closeIdle()
  } finally {
    for (const answer of open) Reflect.set(answer, 'finished', false)
  }
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
  const fd = descriptorOf(socket) ?? acceptedBelow(socket)
  return fd !== undefined && poll(fd, POLLIN) !== 0
}

/** Those of which the kernel holds nothing. None if it does not say (ENOMEM): they are looked at again. */
export function withoutUnread<T extends { readonly socket: Socket }>(connections: readonly T[]): T[] {
  const fds = connections.map(({ socket }) => descriptorOf(socket) ?? acceptedBelow(socket) ?? -1)
  // Of a negative number poll(2) reports nothing.
  try {
    const events = pollEach(fds, POLLIN)
    return connections.filter((_, index) => events[index] === 0)
  } catch (error) {
    if (error instanceof NativeError) return []
    throw error
  }
}

/** Below a socket that the server has accepted itself, whose number no public API tells. */
function acceptedBelow(socket: Socket): number | undefined {
  const handle: unknown = Reflect.get(socket, '_handle')
  if (typeof handle !== 'object' || handle === null) return undefined
  const fd: unknown = Reflect.get(handle, 'fd')
  return typeof fd === 'number' && fd >= 0 ? fd : undefined
}
