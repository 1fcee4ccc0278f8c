import { encodeProxyHeader, type ProxyAddresses } from '@baton/backend-sdk/protocol'
import { connectUnix, localAddress, NativeError, peerCredentials } from '@baton/native-sendmsg'
import { connect, Socket } from 'node:net'
import { constants } from 'node:os'
import type { ClientConnection } from '../connection/connection.ts'
import { errnoOf } from '../../config/error.ts'
import type { Proxied } from '../connection/proxied.ts'
import { withReader } from './reader.ts'
import { openUnix } from './unix-socket.ts'

/** One attempt to connect to a relay target. */
export interface PendingDial {
  /** Nothing has been read from it. Owned by the dial until `detach`, then by the caller. */
  readonly socket: Socket
  /** Destroys the socket, without notifying the host. */
  cancel(): void
  /** Hands the socket to the caller, who handles its events from now on. */
  detach(): void
}

export interface DialHost {
  connected(): void
  /** The attempt failed, or its connection broke, before `detach`. */
  failed(error: NodeJS.ErrnoException): void
}

/** Where a backend takes relays, and who must be listening there. */
export interface BackendEndpoint {
  readonly path: string
  /** The uid that the backend registered with, from the kernel. */
  readonly uid: number
}

/** A Unix socket, and who must be listening there, if that matters. */
interface UnixEndpoint {
  readonly path: string
  readonly uid?: number
}

/** Dials an upstream. `failed` is called at most once, and never after `cancel` or `detach`. */
export function dial(target: { path: string } | { host: string; port: number }, host: DialHost): PendingDial {
  if ('path' in target) return dialUnix(target, host)
  const socket = withReader((onread) => connect({ ...target, allowHalfOpen: true, onread }))
  socket.pause()
  const attempt = new Attempt(socket, host)
  socket.once('connect', () => attempt.connected())
  return attempt
}

/**
 * Like `dial`, for an address that a backend has named. The broker may have access to sockets that the backend has not, so it asks
 * the kernel which user listens before it sends anything: EACCES if it is not the backend's. `connected` or `failed` is called
 * after this returns, but before anything else is received from the backend.
 */
export function dialBackend(endpoint: BackendEndpoint, host: DialHost): PendingDial {
  return dialUnix(endpoint, host)
}

/** Without libuv's connect, because the socket must refuse descriptors before it is connected. */
function dialUnix(endpoint: UnixEndpoint, host: DialHost): PendingDial {
  let socket: Socket
  try {
    socket = connectAs(endpoint)
  } catch (error) {
    // Node's own, too: it asks the kernel what the descriptor is, which a security module may refuse.
    if (errnoOf(error) === undefined) throw error
    // A socket that never connects: its `error` event reports the failure after this returns.
    socket = new Socket()
    const attempt = new Attempt(socket, host)
    socket.destroy(error as Error)
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
    this.#onError(Object.assign(new Error('connection closed by peer'), { code: 'ECONNRESET' }))
}

/** A user other than the backend's listens at the address that the backend named. */
class UnexpectedPeerError extends Error {
  readonly code = 'EACCES'
  readonly errno = constants.errno.EACCES

  constructor({ path, uid }: UnixEndpoint, found: number) {
    super(`connect ${path}: uid ${found} listens there, wanted uid ${uid}, with which the backend registered`)
  }
}

/**
 * Connects without reading or sending. SO_PEERCRED names the process that called listen(2) (unix(7)): whatever happens to the
 * path, this connection leads to that user.
 */
function connectAs(endpoint: UnixEndpoint): Socket {
  const fd = connectUnix(endpoint.path, 'stream', { descriptors: false })
  try {
    if (endpoint.uid !== undefined) {
      const { uid } = peerCredentials(fd.fd)
      if (uid !== endpoint.uid) throw new UnexpectedPeerError(endpoint, uid)
    }
    return openUnix(fd)
  } catch (error) {
    fd.close()
    throw error
  }
}

/** The header that begins a relay to a backend: the client's addresses, and the token of its OFFER. */
export function relayHeader({ fd, peer, proxied }: ClientConnection, token: Buffer): Buffer {
  return encodeProxyHeader({
    addresses: proxied === undefined ? addressesOf(fd.fd, peer) : proxiedAddresses(proxied),
    token,
  })
}

function proxiedAddresses({ source, destination }: Proxied): ProxyAddresses | undefined {
  if (source.family === 'unix') return undefined
  return {
    family: source.family,
    source: source.address,
    sourcePort: source.port,
    destination: destination.address,
    destinationPort: destination.port,
  }
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
