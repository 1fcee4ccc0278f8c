import type { Socket } from 'node:net'
import { availableParallelism } from 'node:os'
import { type Clock, systemClock } from '@baton/backend-sdk/protocol'
import {
  clearLinger,
  clearReceiveMinimum,
  closeAside,
  isNonblocking,
  isStream,
  localAddress,
  NativeError,
  OwnedFd,
  peek,
  type Peeked,
  peekMany,
  peerAddress,
  type Poller,
  setNonblocking,
  type SocketAddress,
  type Watch,
} from '@baton/native-sendmsg'
import { closeClients } from './connection/close-clients.ts'
import type { ClientConnection } from './connection/connection.ts'
import { sharedReserve } from './listen/descriptor-reserve.ts'
import { type BackendEndpoint, dial, dialBackend, type DialHost, type PendingDial } from './relay/dial.ts'
import { Relay } from './relay/relay.ts'

/** The part of a poller that watches waiting connections. */
export interface Watcher {
  add(...args: Parameters<Poller['add']>): Pick<Watch, 'modify' | 'remove'>
}

/** The part of a poller that watches connections whose service is not chosen yet. */
export type ManyWatcher = Pick<Poller, 'addMany' | 'removeMany'>

/** A running relay. */
export interface Carried {
  readonly bytes: { in: number; out: number }
  /** Destroys both sides. */
  close(): void
}

/** Side effects of links and services beyond lanes and control connections, behind an interface that a simulation can replace. */
export interface Os extends Clock {
  /** Processors that backends can run on at the same time. */
  readonly parallelism: number
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** See `peek` of native-sendmsg. */
  peek(fd: number, max: number): Buffer | undefined
  /** See `peekMany` of native-sendmsg. */
  peekMany(fds: readonly number[], max: number): Peeked[]
  /** See `closeClients`. */
  closeClients(connections: readonly Pick<ClientConnection, 'fd' | 'peer'>[]): void
  /** The address of the client behind a connected socket. When it has left, only the family is known: an empty or unspecified address. */
  peer(fd: number): SocketAddress
  /** The local address of the connection behind `fd`; undefined for anything else than a stream socket that is connected or was. */
  local(fd: number): SocketAddress | undefined
  /** Closes descriptors of unknown kind, which a backend has sent, without ever waiting. */
  discard(fds: readonly number[]): void
  /** Whether a descriptor of this number, just opened, is one of those that idle connections may not use up. */
  isOfReserve(fd: number): boolean
  /** Resets what a backend may have changed on the shared open file: O_NONBLOCK on, SO_LINGER off, SO_RCVLOWAT at one byte. */
  takeBack(fd: number): void
  /** Dials an upstream. */
  dial(target: { path: string } | { host: string; port: number }, host: DialHost): PendingDial
  /** Dials a backend's relay endpoint; fails if another user listens there. */
  dialBackend(endpoint: BackendEndpoint, host: DialHost): PendingDial
  /** Starts a relay. Takes ownership of both sides; calls `onEnd` when both are closed. */
  carry(connection: ClientConnection, upstream: Socket, onEnd: (carried: Carried) => void): Carried
}

/** Of a peer that has left: what closes the socket, and where a client goes, depends on the family. */
function unspecified(family: SocketAddress['family']): SocketAddress {
  const address = family === 'IPv4' ? '0.0.0.0' : family === 'IPv6' ? '::' : ''
  return { family, address, port: 0 }
}

export const systemOs: Os = {
  ...systemClock,
  parallelism: availableParallelism(),
  random: Math.random,
  peek,
  peekMany,
  closeClients,
  peer: (fd) => peerAddress(fd) ?? unspecified(localAddress(fd).family),
  local: (fd) => {
    try {
      return isStream(fd) ? localAddress(fd) : undefined
    } catch (error) {
      // A family without addresses that are known here.
      if (error instanceof NativeError) return undefined
      throw error
    }
  },
  discard: (fds) => {
    for (const fd of fds) closeAside(new OwnedFd(fd))
  },
  isOfReserve: (fd) => sharedReserve().isForClients(fd),
  takeBack: (fd) => {
    // Hardly any giver changes it.
    if (!isNonblocking(fd)) setNonblocking(fd, true)
    clearLinger(fd)
    clearReceiveMinimum(fd)
  },
  dial,
  dialBackend,
  carry: (connection, upstream, onEnd) => new Relay(connection, upstream, onEnd),
}
