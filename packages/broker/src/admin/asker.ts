import type { Socket } from 'node:net'
import { NativeError, peerCredentials } from '@baton/native-sendmsg'
import { descriptorOf } from './socket-descriptor.ts'

/**
 * Who sends a request, for the log: the address that it came from, or the user behind a Unix socket (SO_PEERCRED), and
 * whether it had to show the token.
 */
export function askerOf(socket: Socket, withToken: boolean): string {
  return `${peerOf(socket)} ${withToken ? 'with' : 'without'} a token`
}

function peerOf(socket: Socket): string {
  const { remoteAddress, remotePort, remoteFamily } = socket
  if (remoteAddress !== undefined)
    return remoteFamily === 'IPv6' ? `[${remoteAddress}]:${remotePort}` : `${remoteAddress}:${remotePort}`
  try {
    const fd = descriptorOf(socket)
    if (fd === undefined) return 'a Unix socket'
    const { uid, pid } = peerCredentials(fd)
    return `uid ${uid} (pid ${pid})`
  } catch (error) {
    if (error instanceof NativeError) return 'a Unix socket'
    throw error
  }
}
