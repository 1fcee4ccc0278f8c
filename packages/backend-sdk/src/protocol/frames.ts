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
  REBALANCE: 0x80,
  HANDBACK: 0x81,
  TAKEN: 0x82,
  GIVEN_BACK: 0x83,
  SETTLED: 0x84,
  RESUMES: 0x85,
  TICKET_KEYS: 0x86,
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
  'NotResumable',
] as const

export type NackReason = (typeof NACK_REASONS)[number]

/** In HELLO: this backend can hand connections back. In WELCOME: it may. Frames from 0x80 up follow only then. */
export const HANDBACK_CAPABILITY = 'handback/1'

/** In HELLO: this backend ends TLS and takes keys for session tickets. In WELCOME: it gets them, in TICKET_KEYS. */
export const TICKETS_CAPABILITY = 'tls-tickets/1'

/** Bytes of a key for session tickets: its name, an HMAC key and an AES key, 16 each. */
export const TICKET_KEY_LENGTH = 48

/** Of an offer or a hand-back, as JSON. */
export const MAX_META_BYTES = 65_535

/** Greatest sum of an entry's prefix, heads, state and names in HANDBACK, in bytes. */
export const MAX_HANDBACK_BYTES = 262_144

/** An idle connection may stay idle without limit. */
export const NO_KEEP_ALIVE_LIMIT = 0xffff_ffff

/**
 * Kinds of connections that are handed back. `idle`: HTTP/1.1 between two requests, nothing of the next one read; any backend can take it as a fresh
 * connection. `replay`: a WebSocket or an open answer, which the next backend opens again from the recorded request.
 * `raw`: a TCP connection with state of the app. The position, from 1, is the byte on the wire.
 */
export const HANDBACK_KINDS = ['idle', 'replay', 'raw'] as const

export type HandBackKind = (typeof HANDBACK_KINDS)[number]

/** Those that carry state. */
export type ResumedKind = Exclude<HandBackKind, 'idle'>

/**
 * Why the broker gives a connection back to its giver. The position, from 1, is the byte on the wire.
 *
 * - `NoTaker`: no registered backend resumes its schema, or its listener is gone.
 * - `Stopping`: the broker ends.
 * - `TooMany`: more than `handBackWindow` are unsettled, or the broker has no room for it.
 */
export const GIVEN_BACK_REASONS = ['NoTaker', 'Stopping', 'TooMany'] as const

export type GivenBackReason = (typeof GIVEN_BACK_REASONS)[number]

/** Outcomes of connections that were taken. `ended`: its client left, or it was closed. The position, from 1, is the byte. */
export const SETTLED_OUTCOMES = ['parked', 'resumed', 'ended'] as const

export type SettledOutcome = (typeof SETTLED_OUTCOMES)[number]

/**
 * `descriptor`: the client's socket is on the lane. `relay`: the broker dials the backend's endpoint. `resumed`: the socket is on the
 * lane, and another backend has served it until now; only to a backend that has named its schema in RESUMES.
 */
export const OFFER_KINDS = ['descriptor', 'relay', 'resumed'] as const

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
  /** True: it drains already, and only hands connections back; it is offered nothing. */
  draining: boolean | null
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
  /** Greatest number of hand-backs without SETTLED or GIVEN_BACK; `null` (or absent) without `handback/1`. */
  handBackWindow: number | null
  /** Milliseconds for which an HTTP connection may be idle here before it is to be handed back; `null` for never. */
  parkAfter: number | null
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
  /** With `resumed` only: what the next backend needs to go on. */
  resumed: ResumedBlock | undefined
}

/**
 * Goes with a connection from the backend that has served it to the next one. The parts that vary, listener and meta of the entry
 * included, are at most {@link MAX_HANDBACK_BYTES} together. A decoded block owns its bytes.
 */
export interface ResumedBlock {
  kind: ResumedKind
  /** Name of the format of `state`, at most 255 bytes. */
  schema: string
  /** Bytes that were read from the client and not consumed. */
  prefix: Buffer
  /** Head of the request that opened a `replay`. */
  requestHead: Buffer
  /** Head of the answer to it. */
  answerHead: Buffer
  /** JSON of the app. */
  state: Buffer
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

/** Broker to SDK: hand `count` connections back, idle ones first; others would serve them better. */
export interface RebalanceFrame {
  type: 'rebalance'
  count: number
}

/** SDK to broker: the states that this backend can resume from now on. Replaces the last list. */
export interface ResumesFrame {
  type: 'resumes'
  /** At most 64 names of at most 255 characters. */
  schemas: string[]
}

/** One connection that a backend hands back. Its descriptor lies on the lane behind the same token. */
export interface HandBack {
  /** From 1, strictly increasing on one control connection. */
  sequence: number
  /** 16 secret bytes of the giver. */
  token: Buffer
  /** The connection's ULID, as its OFFER named it. */
  connection: Buffer
  kind: HandBackKind
  /** Milliseconds that an `idle` connection may stay idle; {@link NO_KEEP_ALIVE_LIMIT} for no limit; 0 for other kinds. */
  keepAlive: number
  /** As its OFFER named it. */
  listener: string
  /** As in its OFFER. */
  meta: Record<string, unknown> | undefined
  /** Name of the format of `state`, at most 255 bytes; empty for `idle`. */
  schema: string
  /** Bytes that were read from the client and not consumed. */
  prefix: Buffer
  /** Head of the request that opened a `replay`. */
  requestHead: Buffer
  /** Head of the answer to it. */
  answerHead: Buffer
  /** JSON of the app. */
  state: Buffer
}

/** SDK to broker. At least one entry; at most {@link MAX_HANDBACK_BYTES} in each. */
export interface HandBackFrame {
  type: 'handback'
  entries: HandBack[]
}

/** Broker to SDK: these belong to the broker now; the giver closes its duplicates. */
export interface TakenFrame {
  type: 'taken'
  sequences: number[]
}

export interface GivenBack {
  sequence: number
  reason: GivenBackReason
}

/** Broker to SDK: the broker has closed its copies of these; the giver goes on with them. */
export interface GivenBackFrame {
  type: 'given_back'
  entries: GivenBack[]
}

export interface Settled {
  sequence: number
  outcome: SettledOutcome
}

/** Broker to SDK: what became of connections that were taken. */
export interface SettledFrame {
  type: 'settled'
  entries: Settled[]
}

/**
 * Broker to SDK: behind WELCOME, before any offer, and after each change. A decoded frame hides its keys from `inspect` and JSON.
 */
export interface TicketKeysFrame {
  type: 'ticket_keys'
  /** Base64, {@link TICKET_KEY_LENGTH} bytes each. The first encrypts new tickets; the others still open earlier ones. */
  keys: string[]
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
  | RebalanceFrame
  | ResumesFrame
  | TicketKeysFrame

/** The frames whose payload is a counted batch of binary entries. */
export type BatchFrame =
  | OfferFrame
  | AckFrame
  | NackFrame
  | RevokeFrame
  | HandBackFrame
  | TakenFrame
  | GivenBackFrame
  | SettledFrame

export type Frame = JsonFrame | BatchFrame
