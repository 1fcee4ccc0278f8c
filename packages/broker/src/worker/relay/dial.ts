import { encodeProxyHeader, type ProxyAddresses } from '@baton/backend-sdk/protocol'
import { connectUnix, localAddress, NativeError, peerCredentials } from '@baton/native-sendmsg'
import { connect, Socket, type SocketConstructorOpts } from 'node:net'
import { constants } from 'node:os'
import type { ClientConnection } from '../connection/connection.ts'

/** One attempt to reach somebody who takes bytes instead of a descriptor. */
export interface PendingDial {
  /** Nothing was read from it. The dial's until `settle`, then the caller's. */
  readonly socket: Socket
  /** Gives up, without a word to the host. */
  cancel(): void
  /** From now on the caller watches the socket itself. */
  detach(): void
}

export interface DialHost {
  connected(): void
  /** It failed, or what was connected broke, before `settle`. */
  failed(error: NodeJS.ErrnoException): void
}

/** Where a backend takes relays, and who must be listening there. */
export interface BackendEndpoint {
  readonly path: string
  /** The user as whom the backend has registered, as the kernel told it. */
  readonly uid: number
}

/** A Unix socket, and who must be listening there, if that matters. */
interface UnixEndpoint {
  readonly path: string
  readonly uid?: number
}

/** Dials. `failed` is called at most once, and never after `cancel` or `settle`. */
export function dial(target: { path: string } | { host: string; port: number }, host: DialHost): PendingDial {
  if ('path' in target) return dialUnix(target, host)
  const socket = connect({ ...target, allowHalfOpen: true })
  socket.pause()
  const attempt = new Attempt(socket, host)
  socket.once('connect', () => attempt.connected())
  return attempt
}

/**
 * As `dial`, for an address that a backend has named. The broker may reach sockets that the backend may not, so the kernel is
 * asked who listens before a byte is sent: EACCES when it is another user than the backend's. Neither `connected` nor `failed`
 * is called before this returns, and one of them is before anything else is heard of the backend.
 */
export function dialBackend(endpoint: BackendEndpoint, host: DialHost): PendingDial {
  return dialUnix(endpoint, host)
}

/** Without libuv's connect: what the listener may send has to be decided before. */
function dialUnix(endpoint: UnixEndpoint, host: DialHost): PendingDial {
  let socket: Socket
  try {
    socket = connectAs(endpoint)
  } catch (error) {
    if (!(error instanceof NativeError) && !(error instanceof UnexpectedPeerError)) throw error
    // Never connected. The error is told through it, so that it reaches whoever watches it then.
    socket = new Socket()
    const attempt = new Attempt(socket, host)
    socket.destroy(error)
    return attempt
  }
  const attempt = new Attempt(socket, host)
  process.nextTick(() => attempt.connected())
  return attempt
}

class Attempt implements PendingDial {
  readonly socket: Socket
  readonly #host: DialHost
  #open = true

  constructor(socket: Socket, host: DialHost) {
    this.socket = socket
    this.#host = host
    socket.on('error', this.#onError)
    socket.on('close', this.#onClose)
  }

  connected(): void {
    if (this.#open) this.#host.connected()
  }

  cancel(): void {
    this.#open = false
    this.socket.destroy()
  }

  detach(): void {
    this.#open = false
    this.socket.off('close', this.#onClose).off('error', this.#onError)
  }

  readonly #onError = (error: NodeJS.ErrnoException): void => {
    if (!this.#open) return
    this.cancel()
    this.#host.failed(error)
  }

  readonly #onClose = (): void =>
    this.#onError(Object.assign(new Error('closed by the other side'), { code: 'ECONNRESET' }))
}

/** Somebody else listens there than the backend that named the address. */
class UnexpectedPeerError extends Error {
  readonly code = 'EACCES'
  readonly errno = constants.errno.EACCES

  constructor({ path, uid }: UnixEndpoint, found: number) {
    super(
      `connect ${path}: uid ${found} listens there, wanted uid ${uid}, as which the backend has registered`,
    )
  }
}

/**
 * Connected, unread, and nothing sent. The listener is who called listen(2) (SO_PEERCRED, unix(7)): whatever becomes of the
 * path, this connection leads to that user.
 */
function connectAs(endpoint: UnixEndpoint): Socket {
  const fd = connectUnix(endpoint.path, 'stream', { descriptors: false })
  try {
    if (endpoint.uid !== undefined) {
      const { uid } = peerCredentials(fd.fd)
      if (uid !== endpoint.uid) throw new UnexpectedPeerError(endpoint, uid)
    }
    // A socket that is made of a descriptor reads at once, unless `manualStart` (lib/net.js; the types leave it out) keeps it
    // from that until it is piped. Paused instead, it would never get to full speed: half the throughput of a relay.
    const options: SocketConstructorOpts & { manualStart: boolean } = {
      fd: fd.fd,
      allowHalfOpen: true,
      manualStart: true,
    }
    const socket = new Socket(options)
    fd.release()
    return socket
  } catch (error) {
    fd.close()
    throw error
  }
}

/** The header with which a relay to a backend begins: where the client comes from, and the token of its OFFER. */
export function relayHeader({ fd, peer }: ClientConnection, token: Buffer): Buffer {
  return encodeProxyHeader({ addresses: addressesOf(fd.fd, peer), token })
}

function addressesOf(fd: number, peer: ClientConnection['peer']): ProxyAddresses | undefined {
  if (peer.family === 'unix') return undefined
  try {
    const local = localAddress(fd)
    return {
      family: peer.family,
      source: peer.address,
      sourcePort: peer.port,
      destination: local.address,
      destinationPort: local.port,
    }
  } catch (error) {
    if (error instanceof NativeError) return undefined
    throw error
  }
}
