import { closeAll, closeReachable, type OwnedFd } from '@baton/native-sendmsg'
import type { ClientConnection } from './connection.ts'

/**
 * Closes the broker's descriptors of clients. Never blocks, whatever a backend that was offered one of them, or a client of a Unix
 * listener, has done to it (see `closeAll` and `closeReachable` of native-sendmsg).
 */
export function closeClients(connections: readonly Pick<ClientConnection, 'fd' | 'peer'>[]): void {
  close(connections, false)
}

/** Like `closeClients`, for a connection that no other process has: unread data is discarded. */
export function discardClient(connection: Pick<ClientConnection, 'fd' | 'peer'>): void {
  close([connection], true)
}

function close(connections: readonly Pick<ClientConnection, 'fd' | 'peer'>[], sole: boolean): void {
  const others: OwnedFd[] = []
  for (const { fd, peer } of connections) {
    if (peer.family === 'unix') closeReachable(fd, sole)
    else others.push(fd)
  }
  closeAll(others)
}
