import { channel } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import type { ConnectionInfo } from './connection-info.ts'

/**
 * Channels of `node:diagnostics_channel` for tracing; the names are stable. Without subscribers a step costs one comparison. Messages are objects
 * with the members named here; `connection` is what `backend.connection(socket)` returns.
 */
export const channels = {
  /** `{ id, slot, service }`: registered with a broker. */
  registered: channel('baton:backend:registered'),
  /** `{ service, error }`: the last broker is gone. */
  disconnected: channel('baton:backend:disconnected'),
  /** `{ connection, socket }`: this process owns the connection, and the server has received it. Also one that comes back. */
  adopted: channel('baton:connection:adopted'),
  /** `{ reason, service }`: an offer was refused, untouched. */
  refused: channel('baton:connection:refused'),
  /** `{ connection, socket }`: it was handed back, and goes on elsewhere, or comes back. */
  handedBack: channel('baton:connection:handed-back'),
  /** `{ connection, socket }`: its socket has closed. `connection.movedOn` tells whether it was handed back. */
  closed: channel('baton:connection:closed'),
} as const

export function publishAdopted(connection: ConnectionInfo, socket: Socket): void {
  if (channels.adopted.hasSubscribers) channels.adopted.publish({ connection, socket })
  if (channels.closed.hasSubscribers)
    socket.once('close', () => channels.closed.publish({ connection, socket }))
}
