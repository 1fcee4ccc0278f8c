import { encodeProxyHeader, type ProxyAddresses } from '@baton/backend-sdk/protocol'
import { localAddress, NativeError } from '@baton/native-sendmsg'
import { connect, type NetConnectOpts, type Socket } from 'node:net'
import type { ClientConnection } from '../connection.ts'

/** One attempt to reach somebody who takes bytes instead of a descriptor. */
export interface PendingDial {
  /** Nothing was read from it. The dial's until `settle`, then the caller's. */
  readonly socket: Socket
  /** Gives up, without a word to the host. */
  cancel(): void
  /** From now on the caller watches the socket itself. */
  settle(): void
}

export interface DialHost {
  connected(): void
  /** It failed, or what was connected broke, before `settle`. */
  failed(error: NodeJS.ErrnoException): void
}

/** Dials. `failed` is called at most once, and never after `cancel` or `settle`. */
export function dial(target: NetConnectOpts, host: DialHost): PendingDial {
  const socket = connect({ ...target, allowHalfOpen: true })
  let open = true
  const fail = (error: NodeJS.ErrnoException) => {
    if (!open) return
    open = false
    socket.destroy()
    host.failed(error)
  }
  const onEnd = () => fail(Object.assign(new Error('closed by the other side'), { code: 'ECONNRESET' }))
  socket.pause()
  socket.once('connect', () => {
    if (open) host.connected()
  })
  socket.on('error', fail)
  socket.on('close', onEnd)
  return {
    socket,
    cancel: () => {
      open = false
      socket.destroy()
    },
    settle: () => {
      open = false
      socket.off('close', onEnd).off('error', fail)
    },
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
