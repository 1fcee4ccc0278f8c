import type { AnySocket } from './parts.ts'

/** Of one namespace of a client. */
export interface CarriedSocket {
  readonly namespace: string
  readonly id: string
  readonly pid?: string
  readonly rooms: readonly (string | number)[]
  readonly data: unknown
  /** The members of `socket.handshake` that the next process cannot derive from the request. */
  readonly handshake: Partial<AnySocket['handshake']>
  /** The app's, as JSON. */
  readonly state?: string
}

/** When the next ping is due, in ms. */
export interface CarriedPings {
  /** The client was told this interval, and disconnects without pings. */
  readonly interval: number
  /** Since the last pong. */
  readonly quiet: number
  /** Since a ping that the client has not answered. */
  readonly unanswered?: number
}

/** A client's session, as JSON. */
export interface CarriedSession {
  /** The id of engine.io. */
  readonly engine: string
  readonly pings: CarriedPings
  readonly sockets: readonly CarriedSocket[]
}

/** @throws {Error} not what `migrateSocketIo` has written */
export function readSession(value: unknown): CarriedSession {
  const session = value as Partial<CarriedSession> | null | undefined
  const valid =
    typeof session?.engine === 'string' &&
    typeof session.pings?.interval === 'number' &&
    typeof session.pings.quiet === 'number' &&
    Array.isArray(session.sockets) &&
    session.sockets.length > 0 &&
    session.sockets.every(isSocket)
  if (!valid) throw new Error('its state is not a session of socket.io')
  return session as CarriedSession
}

function isSocket(value: unknown): boolean {
  const socket = value as Partial<CarriedSocket> | null | undefined
  return (
    typeof socket?.namespace === 'string' &&
    typeof socket.id === 'string' &&
    Array.isArray(socket.rooms) &&
    typeof socket.handshake === 'object' &&
    (socket.state === undefined || typeof socket.state === 'string')
  )
}

/** The request without its session id, which the next process would look for among its own. */
export function withoutSessionId(requestHead: Buffer): Buffer {
  const head = requestHead.toString('latin1')
  const end = head.indexOf('\r\n')
  const line = head
    .slice(0, end)
    .replace(/([?&])sid=[^& ]*(&?)/, (_all, before: string, after: string) => (after === '' ? '' : before))
  return Buffer.from(line + head.slice(end), 'latin1')
}
