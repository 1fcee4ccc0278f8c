import { NativeError, peerCredentials, receivePlain } from '@baton/native-sendmsg'
import type { ListenerConfig } from '../../config/config.ts'
import { networksOf } from '../../config/trusted-source.ts'
import type { ClientConnection } from '../connection/connection.ts'

/** Tells trusted peers, by address, or by user where they have none. */
export function trustOf({ proxyProtocol }: ListenerConfig): (connection: ClientConnection) => boolean {
  if (proxyProtocol === null) return () => false
  const { from } = proxyProtocol
  const isOfNetwork = networksOf(from)
  const uids = new Set(from.flatMap((source) => (source.kind === 'uid' ? [source.uid] : [])))
  return ({ fd, peer }) => {
    if (peer.family !== 'unix') return isOfNetwork(peer.address)
    try {
      return uids.has(peerCredentials(fd.fd).uid)
    } catch (error) {
      if (error instanceof NativeError) return false
      throw error
    }
  }
}

/** Reads exactly the bytes that were looked at. False: the client's socket has failed. */
export function consume({ fd }: ClientConnection, length: number): boolean {
  try {
    // A Unix socket may deliver less at a time.
    for (let left = length; left > 0;) {
      const read = receivePlain(fd.fd, left).length
      if (read === 0) return false
      left -= read
    }
    return true
  } catch (error) {
    if (error instanceof NativeError) return false
    throw error
  }
}
