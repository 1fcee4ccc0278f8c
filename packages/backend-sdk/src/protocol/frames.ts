/**
 * The frames of a control connection, one interface each. `docs/reference/protocol.md` specifies the bytes. "SDK" below means
 * any implementation of the backend's half.
 */

/** The only protocol version so far, sent in HELLO and WELCOME. The broker answers any other version with REFUSED. */
export const PROTOCOL_VERSION = 1

/** Greatest value of the length field (type byte and payload), up to and including WELCOME or REFUSED. */
export const PRE_WELCOME_LIMIT = 65_536

/** Greatest value of the length field after WELCOME. */
export const POST_WELCOME_LIMIT = 1_048_576

/** Maximum entries of a batch, whose count is a u16. */
export const MAX_BATCH_ENTRIES = 65_535

export const TOKEN_LENGTH = 16
export const ULID_LENGTH = 16

/** The type byte. A receiver skips unknown types from {@link FIRST_SKIPPABLE_TYPE} up. */
export const FrameType = {
  HELLO: 0x01,
  WELCOME: 0x02,
  REFUSED: 0x03,
  RECONNECT: 0x04,
  DRAIN: 0x05,
  DRAINED: 0x06,
  HEARTBEAT: 0x07,
  STATS: 0x08,
  OFFER: 0x10,
  ACK: 0x11,
  NACK: 0x12,
  REVOKE: 0x13,
} as const

export const FIRST_SKIPPABLE_TYPE = 0x80

/** Why a backend did not adopt a connection. The byte on the wire is the position, from 1. */
export const NACK_REASONS = [
  'TokenMissing',
  'TokenInvalidLength',
  'TokenMismatch',
  'TokenExpired',
  'TokenNotPending',
  'ControlTruncated',
  'BackendDraining',
  'BackendOverloaded',
] as const

export type NackReason = (typeof NACK_REASONS)[number]

/** `descriptor`: the client's socket is on the lane. `relay`: the broker dials the backend's endpoint. */
export const OFFER_KINDS = ['descriptor', 'relay'] as const

export type OfferKind = (typeof OFFER_KINDS)[number]

/** SDK to broker, once, as the first frame. A decoded frame hides its secret from `inspect` and JSON. */
export interface HelloFrame {
  type: 'hello'
  protocol: number
  capabilities: string[]
  service: string
  version: string | null
  /** Share of new connections relative to the service's other backends: 0 < weight <= 1000. */
  weight: number
  pid: number
  /** ULID that an earlier WELCOME, or the master, assigned to this backend; `null` if there is none. */
  backend: string | null
  /** Name and version of the SDK, for the logs. */
  sdk: string
  secret: string | null
  /** Path of the Unix socket for relays; `null` if this backend takes none. */
  reconnect: { path: string } | null
}

/** Broker to SDK. Its bytes carry the backend's end of the lane (SCM_RIGHTS). */
export interface WelcomeFrame {
  type: 'welcome'
  protocol: number
  capabilities: string[]
  /** ULID of the broker process. */
  broker: string
  /** ULID of this backend: the one that HELLO named, or a new one. */
  backend: string
  /** Short stable name for metrics, such as `web-1`. */
  slot: string
  service: string
  /** Milliseconds between the broker's HEARTBEATs. */
  heartbeatInterval: number
  /** Milliseconds for which a descriptor waits for its OFFER. */
  tokenTtl: number
  /** Milliseconds without an ACK after which the broker reads an offer's descriptor back. */
  ackDeadline: number
}

/** Broker to SDK, instead of WELCOME; the connection ends after it. */
export interface RefusedFrame {
  type: 'refused'
  code: string
  message: string
  /** Whether the same HELLO may succeed later. */
  retry: boolean
  /** Milliseconds until which another dial is refused too; `null` or absent if there is no such time. */
  retryAfter: number | null
}

/** Broker to SDK: register again on the same socket path. The broker closes this connection afterwards. */
export interface ReconnectFrame {
  type: 'reconnect'
  reason: string
}

/** In either direction: no more connections to this backend. */
export interface DrainFrame {
  type: 'drain'
  /** Milliseconds from now that current connections may take to finish; `null` for no limit. */
  deadline: number | null
  reason: string
}

/** SDK to broker: drained, all adopted connections have ended. */
export interface DrainedFrame {
  type: 'drained'
}

/** The broker probes with `reply: false`; the SDK sends the same id back with `reply: true`. */
export interface HeartbeatFrame {
  type: 'heartbeat'
  id: number
  reply: boolean
}

/** SDK to broker, at least once a second. */
export interface StatsFrame {
  type: 'stats'
  /** Connections adopted since the backend started. */
  adopted: number
  /** Adopted connections that have ended since the backend started. */
  closed: number
  /** Greatest event-loop delay since the last STATS, in milliseconds. */
  lag: number
}

export interface Offer {
  /** From 1, increasing, unique on one control connection; at most `Number.MAX_SAFE_INTEGER`. */
  sequence: number
  /** 16 secret bytes. A decoded offer owns its copy, which prints as `[token]`. */
  token: Buffer
  /** The connection's ULID as 16 bytes. A decoded offer owns its copy. */
  connection: Buffer
  /** When the token expires, in nanoseconds of CLOCK_MONOTONIC (clock_gettime(2)). */
  deadline: bigint
  kind: OfferKind
  /** Name of the listener that accepted the client: at most 255 bytes of UTF-8. */
  listener: string
  /** At most 65,535 bytes as JSON. */
  meta: Record<string, unknown> | undefined
}

/** Broker to SDK. At least one offer, sequences strictly increasing. */
export interface OfferFrame {
  type: 'offer'
  offers: Offer[]
}

export interface Ack {
  sequence: number
  /** The connection ULID of the offer. */
  connection: Buffer
}

/** SDK to broker: the backend owns these connections from now on. */
export interface AckFrame {
  type: 'ack'
  acks: Ack[]
}

export interface Nack {
  /** 0 if the lane message belongs to no known offer. */
  sequence: number
  reason: NackReason
  /** The token as received on the lane, cut or padded with zeros to 16 bytes. */
  token: Buffer
}

/** SDK to broker: these were not adopted, and the backend has closed everything it received for them. */
export interface NackFrame {
  type: 'nack'
  nacks: Nack[]
}

/** Broker to SDK: forget these offers; their descriptors will not arrive. */
export interface RevokeFrame {
  type: 'revoke'
  sequences: number[]
}

/** The frames whose payload is a JSON object. */
export type JsonFrame =
  | HelloFrame
  | WelcomeFrame
  | RefusedFrame
  | ReconnectFrame
  | DrainFrame
  | DrainedFrame
  | HeartbeatFrame
  | StatsFrame

/** The frames whose payload is a counted batch of binary entries. */
export type BatchFrame = OfferFrame | AckFrame | NackFrame | RevokeFrame

export type Frame = JsonFrame | BatchFrame
