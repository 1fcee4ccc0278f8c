import type { Socket } from 'node:net'
import { availableParallelism } from 'node:os'
import { type Clock, systemClock } from '@baton/backend-sdk/protocol'
import {
  clearLinger,
  closeAside,
  isStream,
  localAddress,
  NativeError,
  OwnedFd,
  peek,
  peerAddress,
  setNonblocking,
  type SocketAddress,
} from '@baton/native-sendmsg'
import { closeClients } from './connection/close-clients.ts'
import type { ClientConnection } from './connection/connection.ts'
import { type BackendEndpoint, dial, dialBackend, type DialHost, type PendingDial } from './relay/dial.ts'
import { Relay } from './relay/relay.ts'

/** A client whose bytes are carried. */
export interface Carried {
  readonly bytes: { in: number; out: number }
  /** Cuts both sides. */
  close(): void
}

/**
 * What links and services do to the world beside their lane and control connection. They decide; this is where it happens, and
 * where a simulation puts its own.
 */
export interface Os extends Clock {
  /** Processors that backends can run on at the same time. */
  readonly parallelism: number
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** See `peek` of native-sendmsg. */
  peek(fd: number, max: number): Buffer | undefined
  /** See `closeClients`. */
  closeClients(connections: readonly Pick<ClientConnection, 'fd' | 'peer'>[]): void
  /** The address of the client behind a connected socket; an empty Unix address when it has left. */
  peer(fd: number): SocketAddress
  /** The local address of the connection behind `fd`; undefined for anything else than a stream socket that is connected or was. */
  local(fd: number): SocketAddress | undefined
  /** Closes descriptors of unknown kind, which a backend has sent, without ever waiting. */
  discard(fds: readonly number[]): void
  /** Undoes what a backend may have set on the open file that it shared: O_NONBLOCK on, SO_LINGER off. */
  takeBack(fd: number): void
  /** Dials an upstream. */
  dial(target: { path: string } | { host: string; port: number }, host: DialHost): PendingDial
  /** Dials the Unix socket on which a backend takes relays, if it is that backend's user who listens there. */
  dialBackend(endpoint: BackendEndpoint, host: DialHost): PendingDial
  /** Owns both sides from now on; `onEnd` when both are closed. */
  carry(connection: ClientConnection, upstream: Socket, onEnd: (carried: Carried) => void): Carried
}

export const systemOs: Os = {
  ...systemClock,
  parallelism: availableParallelism(),
  random: Math.random,
  peek,
  closeClients,
  peer: (fd) => peerAddress(fd) ?? { family: 'unix', address: '', port: 0 },
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
  takeBack: (fd) => {
    setNonblocking(fd, true)
    clearLinger(fd)
  },
  dial,
  dialBackend,
  carry: (connection, upstream, onEnd) => new Relay(connection, upstream, onEnd),
}
