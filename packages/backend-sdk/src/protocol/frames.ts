/**
 * What the two ends of a control connection say to each other: one interface for each frame.
 * `docs/reference/protocol.md` gives the bytes. "SDK" below is whatever speaks the backend's half.
 */

/** The only protocol version so far. HELLO and WELCOME carry it; a broker answers another with REFUSED. */
export const PROTOCOL_VERSION = 1

/** Greatest value of the length field (type byte and payload) up to and including WELCOME or REFUSED. */
export const PRE_WELCOME_LIMIT = 65_536

/** Greatest value of the length field after WELCOME. */
export const POST_WELCOME_LIMIT = 1_048_576

/** Entries that the u16 count of a batch can hold. */
export const MAX_BATCH_ENTRIES = 65_535

export const TOKEN_LENGTH = 16
export const ULID_LENGTH = 16

/** The type byte. From {@link FIRST_SKIPPABLE_TYPE} up, a receiver skips what it does not know. */
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

/** Why a backend did not adopt a connection. The position, from 1, is the byte on the wire. */
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

/** `descriptor`: the client's socket is on the lane. `relay`: it will be dialled at the reconnect endpoint. */
export const OFFER_KINDS = ['descriptor', 'relay'] as const

export type OfferKind = (typeof OFFER_KINDS)[number]

/** SDK to broker, first and once. Holds a secret: neither `inspect` nor JSON shows it on a decoded frame. */
export interface HelloFrame {
  type: 'hello'
  protocol: number
  capabilities: string[]
  service: string
  version: string | null
  /** Share of new connections beside the service's other backends: 0 < weight <= 1000. */
  weight: number
  pid: number
  /** ULID that an earlier WELCOME gave to this same backend, `null` the first time. */
  backend: string | null
  /** Name and version of the SDK, for the logs. */
  sdk: string
  secret: string | null
  /** The Unix socket path on which relays are taken, `null` when this backend takes none. */
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
  /** Small stable name for metrics, such as `web-1`. */
  slot: string
  service: string
  /** Milliseconds between the broker's HEARTBEATs. */
  heartbeatInterval: number
  /** Milliseconds for which a descriptor without its OFFER is parked. */
  tokenTtl: number
  /** Milliseconds after which the broker reads back an offer without ACK. */
  ackDeadline: number
}

/** Broker to SDK in place of WELCOME; the connection ends after it. */
export interface RefusedFrame {
  type: 'refused'
  code: string
  message: string
  /** Whether the same HELLO may succeed later. */
  retry: boolean
  /** Milliseconds before which another dial is refused as well; `null` (or absent) for no such time. */
  retryAfter: number | null
}

/** Broker to SDK: register anew on the same socket path; this connection is let go of afterwards. */
export interface ReconnectFrame {
  type: 'reconnect'
  reason: string
}

/** Either way: no new connections to this backend from here on. */
export interface DrainFrame {
  type: 'drain'
  /** Milliseconds from now that in-flight work may take, `null` for as long as it needs. */
  deadline: number | null
  reason: string
}

/** SDK to broker: drained, no adopted connection is left. */
export interface DrainedFrame {
  type: 'drained'
}

/** The broker probes with `reply: false`; the SDK sends the same id back with `reply: true`. */
export interface HeartbeatFrame {
  type: 'heartbeat'
  id: number
  reply: boolean
}

/** SDK to broker, at least each second. */
export interface StatsFrame {
  type: 'stats'
  /** Connections adopted since the backend started. */
  adopted: number
  /** Adopted connections that have ended since the backend started. */
  closed: number
  /** Greatest event-loop delay since the last STATS, milliseconds. */
  lag: number
}

export interface Offer {
  /** From 1, in the order of offering, unique on one control connection; at most `Number.MAX_SAFE_INTEGER`. */
  sequence: number
  /** 16 secret bytes. On a decoded offer it is the receiver's to keep and prints as `[token]`. */
  token: Buffer
  /** The connection's ULID as 16 bytes. On a decoded offer it is the receiver's to keep. */
  connection: Buffer
  /** CLOCK_MONOTONIC nanoseconds after which the token is worth nothing (clock_gettime(2)). */
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
  /** The offer's connection ULID, sent back. */
  connection: Buffer
}

/** SDK to broker: these connections are the backend's from here on. */
export interface AckFrame {
  type: 'ack'
  acks: Ack[]
}

export interface Nack {
  /** 0 when what came on the lane belongs to no known offer. */
  sequence: number
  reason: NackReason
  /** What came on the lane as token, cut or padded with zeros to 16 bytes. */
  token: Buffer
}

/** SDK to broker: these were not adopted, and the backend has closed what it received of them. */
export interface NackFrame {
  type: 'nack'
  nacks: Nack[]
}

/** Broker to SDK: forget these offers, their descriptors will not come. */
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
