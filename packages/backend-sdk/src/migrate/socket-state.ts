import { Socket } from 'node:net'

/** Nothing waits to be written (all that the app was told is written is in the kernel, M5), and neither side has ended. */
export function canBeLeft(socket: Socket): boolean {
  const { destroyed, readable, writable, writableEnded, writableLength } = socket
  return !destroyed && readable && writable && !writableEnded && writableLength === 0
}

/**
 * Bytes that Node has read and given to no listener. Takes off the listeners of `data` and `readable`, which would get it again.
 *
 * @returns these bytes, and the listeners of `data`
 */
export function takeUnread(socket: Socket): {
  unread: Buffer
  listeners: ReturnType<Socket['listeners']>
} {
  const listeners = socket.listeners('data')
  // Not the socket's own methods: an app may have replaced them.
  Socket.prototype.removeAllListeners.call(socket, 'readable')
  Socket.prototype.removeAllListeners.call(socket, 'data')
  // A socket that flows gives one portion for each call.
  Socket.prototype.pause.call(socket)
  const unread: Buffer[] = []
  while (socket.readableLength > 0) {
    const portion = Socket.prototype.read.call(socket) as Buffer | null
    if (portion === null) break
    unread.push(portion)
  }
  return { unread: Buffer.concat(unread), listeners }
}

/** Replaces `write` and `end`. */
function discard(...args: unknown[]): boolean {
  const callback = args.find((each) => typeof each === 'function')
  if (callback !== undefined) process.nextTick(callback, noLongerHere())
  return true
}

/** Without a stack: it would name this file alone, and capturing it is expensive. */
function noLongerHere(): Error {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  const error = new Error('this process no longer writes to the connection')
  Error.stackTraceLimit = stackTraceLimit
  return error
}

/**
 * From now on what the app writes to this socket goes nowhere: the connection is closed, or belongs to another owner. Only until
 * `destroy()`, after which Node itself refuses writes.
 */
export function mute(socket: Socket): void {
  for (const name of ['write', 'end'])
    Object.defineProperty(socket, name, { value: discard, configurable: true, writable: true })
}
