import { ulidFromBytes } from '@baton/backend-sdk/protocol'
import type { HeldClient } from '../../ipc/messages.ts'
import type { ClientConnection, ParkedClient } from '../connection/connection.ts'
import { heldState } from './held-state.ts'

/** Connections that wait for a backend or for their next request, and that another worker can take. */
export type Waiting = ClientConnection | ParkedClient

/** CLOCK_MONOTONIC in milliseconds. */
export function monotonic(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** Both read one clock. Taken once: clients of one turn have one time, and keep their order where they are sorted by it. */
const SINCE_BOOT = monotonic() - performance.now()

/** When a client that another worker had accepted arrived, by performance.now(). By the same offset, so it keeps its order in the worker after this one too. */
export function arrivalOf({ acceptedAt }: Pick<HeldClient, 'acceptedAt'>): number {
  return acceptedAt - SINCE_BOOT
}

/** `ClientConnection.quietUntil` of one that another worker had. */
export function quietUntilOf({ quietUntil }: Pick<HeldClient, 'quietUntil'>): number | undefined {
  return quietUntil === null ? Number.POSITIVE_INFINITY : quietUntil && quietUntil - SINCE_BOOT
}

/** A connection of `service`, as another worker gets it. */
export function heldClient(service: string, connection: Waiting): HeldClient {
  const { id, listener } = connection
  const isIdle = 'idleUntil' in connection
  const resume = isIdle ? undefined : connection.resume
  const quietUntil = isIdle ? undefined : connection.quietUntil
  const idleFor = isIdle ? connection.idleUntil - performance.now() : undefined
  return {
    ...(resume === undefined
      ? { service, protocol: listener.protocol }
      : {
          service: '',
          protocol: 'tcp' as const,
          resume: heldState(resume, { service, protocol: listener.protocol }),
        }),
    listener: listener.name,
    id: ulidFromBytes(id),
    acceptedAt: isIdle ? monotonic() : connection.acceptedAt + SINCE_BOOT,
    // A time of the clock that all have: a copy may be old when it is used.
    ...(quietUntil !== undefined && {
      quietUntil: Number.isFinite(quietUntil) ? quietUntil + SINCE_BOOT : null,
    }),
    ...('handedBack' in connection && { handedBack: connection.handedBack }),
    ...('peeked' in connection && connection.peeked && { peeked: connection.peeked }),
    ...('unjudged' in connection && connection.unjudged && { unjudged: true }),
    ...(connection.proxied && { proxied: connection.proxied }),
    ...('routed' in connection && connection.routed && { routed: connection.routed }),
    ...(idleFor !== undefined && { idleFor: Number.isFinite(idleFor) ? idleFor : null }),
  }
}
