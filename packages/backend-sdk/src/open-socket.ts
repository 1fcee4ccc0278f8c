import { Socket as NetSocket, type SocketConstructorOpts } from 'node:net'
import type { DuplexOptions } from 'node:stream'

const descriptor = Symbol('baton descriptor')

interface Opened {
  [descriptor]?: number
}

/** While set, `destroy()` of an `OpenedSocket` notes the socket here, and does nothing else. */
let noted: NetSocket[] | undefined

/**
 * A client's socket. Its class is one of ours for `destroy` alone: what replaces a method of `net.Socket` for a moment makes V8 throw away all code
 * that it has compiled for sockets, and this is done in the middle of a drain, or several times a second (`parkAfter`). Called Socket, as in Node, because
 * that is what apps print.
 */
export class OpenedSocket extends NetSocket {
  override destroy(error?: Error): this {
    if (noted === undefined) return super.destroy(error)
    noted.push(this)
    return this
  }
}
Object.defineProperty(OpenedSocket, 'name', { value: 'Socket' })

/** The sockets of `openSocket` on which `call` calls `destroy`; they are not destroyed. It must be synchronous. */
export function notingDestroyed(call: () => void): NetSocket[] {
  const found: NetSocket[] = []
  noted = found
  try {
    call()
  } finally {
    noted = undefined
  }
  return found
}

/** Options of `net.Socket` that name a descriptor. */
export type DescriptorOptions = SocketConstructorOpts & DuplexOptions & { fd: number }

/** Node and Deno take a connected descriptor in the constructor of `net.Socket`, Bun in `connect()`, and each of them in that way alone. */
export type Way = 'constructor' | 'connect'

let way: Way = 'constructor'

/** Whether `onread` of the constructor has an effect on a socket of `socketOf`. Bun ignores it there. */
export function readsIntoBuffer(): boolean {
  return way === 'constructor'
}

/** Set once, by `checkAdoption`, before the first socket. */
export function openBy(found: Way): void {
  way = found
}

/** @throws {Error} from libuv; the caller then still owns `options.fd` */
export function socketBy(means: Way, options: DescriptorOptions): NetSocket {
  if (means === 'constructor') return new OpenedSocket(options)
  const { fd, ...others } = options
  const socket = new OpenedSocket(others)
  // The types know no `fd` here, because Node refuses it.
  return Reflect.apply(socket.connect.bind(socket), undefined, [{ fd }]) as NetSocket
}

/** A socket of any connected descriptor, of which it takes ownership, as `socketBy`. */
export function socketOf(options: DescriptorOptions): NetSocket {
  return socketBy(way, options)
}

/**
 * The number of the descriptor below a socket of `openSocket`, while it is open. `destroy()` closes it at once, and a socket that the app
 * has sent to a child process has none (`pending`): the number may then be that of anything else.
 */
export function descriptorOf(socket: NetSocket & Opened): number | undefined {
  return socket.destroyed || socket.pending ? undefined : socket[descriptor]
}

/**
 * Creates the socket of a client's descriptor and takes ownership of `fd`.
 *
 * `net.Socket` would set the last three options to these same values. It adds missing options to a copy of its argument, and
 * V8 (Node 20 to 24) gives each such copy a hidden class of its own, so that no inline cache hits. With nothing to add, creating
 * a socket takes 2.4 us instead of 7.3 (`npm run bench -- adoption`).
 *
 * @throws {Error} from libuv, if the descriptor is not a socket or memory is short; the caller then still owns `fd`
 */
export function openSocket(fd: number, allowHalfOpen: boolean): NetSocket {
  const options: DescriptorOptions = {
    fd,
    allowHalfOpen,
    emitClose: false,
    autoDestroy: true,
    decodeStrings: false,
  }
  const socket: NetSocket & Opened = socketOf(options)
  socket[descriptor] = fd
  return socket
}
