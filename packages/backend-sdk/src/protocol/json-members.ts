/**
 * The members of each JSON payload and their accepted values. Encoder and decoder share these tables, so a decoder accepts
 * everything that is encoded.
 */
import type {
  DrainFrame,
  HeartbeatFrame,
  HelloFrame,
  JsonFrame,
  RebalanceFrame,
  ReconnectFrame,
  RefusedFrame,
  ResumesFrame,
  StatsFrame,
  TicketKeysFrame,
  WelcomeFrame,
} from './frames.ts'
import { TICKET_KEY_LENGTH } from './frames.ts'
import { isUlid } from './ulid.ts'

/** Maximum characters of a backend's version, which the broker keeps, logs and shows. */
export const MAX_VERSION = 128
/** Maximum characters of the name of a service. */
export const MAX_SERVICE = 255
/** Maximum characters of a registration secret. */
export const MAX_SECRET = 4096
const MAX_CAPABILITIES = 64
/** Formats of state that one backend can name in RESUMES. */
const MAX_SCHEMAS = 64
/** Keys for session tickets in one frame. A broker sends two. */
const MAX_TICKET_KEYS = 8

interface Member<T> {
  /** Description of accepted values, for the error. */
  readonly wanted: string
  readonly accepts: (value: unknown) => value is T
}

type Members<F extends JsonFrame> = { readonly [K in Exclude<keyof F, 'type'>]: Member<F[K]> }

export const isJsonObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const member = <T>(wanted: string, test: (value: unknown) => boolean): Member<T> => ({
  wanted,
  accepts: (value): value is T => test(value),
})

const orNull = <T>(inner: Member<T>): Member<T | null> =>
  member(`${inner.wanted} or null`, (value) => value === null || inner.accepts(value))

/** A string limited to `most` UTF-16 code units, so that a peer cannot make the other side keep, log or show more. */
const text = (most: number) =>
  member<string>(
    `a string of at most ${most} characters`,
    (value) => typeof value === 'string' && value.length <= most,
  )
const name = (most: number) =>
  member<string>(
    `a string of 1 to ${most} characters`,
    (value) => typeof value === 'string' && value !== '' && value.length <= most,
  )
const flag = member<boolean>('a boolean', (value) => typeof value === 'boolean')
const ulid = member<string>('a ULID', (value) => typeof value === 'string' && isUlid(value))
const capability = text(64)
const capabilities = member<string[]>(
  `an array of at most ${MAX_CAPABILITIES} strings of at most 64 characters`,
  (value) => Array.isArray(value) && value.length <= MAX_CAPABILITIES && value.every(capability.accepts),
)

const numberWhere = (wanted: string, test: (value: number) => boolean): Member<number> =>
  member(wanted, (value) => typeof value === 'number' && test(value))

const count = numberWhere('an integer from 0', (value) => Number.isSafeInteger(value) && value >= 0)
const positive = numberWhere('an integer from 1', (value) => Number.isSafeInteger(value) && value >= 1)
const milliseconds = numberWhere('milliseconds from 0', (value) => Number.isFinite(value) && value >= 0)
const period = numberWhere('milliseconds above 0', (value) => Number.isFinite(value) && value > 0)
const weight = numberWhere('a number above 0 and up to 1000', (value) => value > 0 && value <= 1000)

/** The broker decides which paths it can dial; it does not use the others. */
const path = name(4096)
const endpoint = member<{ path: string }>(
  'an object with a string `path` of 1 to 4096 characters',
  (value) => isJsonObject(value) && path.accepts(value['path']),
)

/** Reasons, which are for people. */
const sentence = text(1024)
const serviceName = name(MAX_SERVICE)
const code = name(64)

const HELLO: Members<HelloFrame> = {
  protocol: positive,
  capabilities,
  service: serviceName,
  version: orNull(text(MAX_VERSION)),
  weight,
  pid: positive,
  backend: orNull(ulid),
  sdk: text(128),
  secret: orNull(text(MAX_SECRET)),
  reconnect: orNull(endpoint),
  draining: orNull(flag),
}

const WELCOME: Members<WelcomeFrame> = {
  protocol: positive,
  capabilities,
  broker: ulid,
  backend: ulid,
  slot: serviceName,
  service: serviceName,
  heartbeatInterval: period,
  tokenTtl: period,
  ackDeadline: period,
  handBackWindow: orNull(positive),
  parkAfter: orNull(milliseconds),
}

const REFUSED: Members<RefusedFrame> = {
  code,
  message: text(16_384),
  retry: flag,
  retryAfter: orNull(milliseconds),
}
const RECONNECT: Members<ReconnectFrame> = { reason: sentence }
const DRAIN: Members<DrainFrame> = { deadline: orNull(milliseconds), reason: sentence }
const HEARTBEAT: Members<HeartbeatFrame> = { id: count, reply: flag }
const REBALANCE: Members<RebalanceFrame> = { count: positive }
const schema = name(255)
const RESUMES: Members<ResumesFrame> = {
  schemas: member<string[]>(
    `an array of at most ${MAX_SCHEMAS} strings of 1 to 255 characters`,
    (value) => Array.isArray(value) && value.length <= MAX_SCHEMAS && value.every(schema.accepts),
  ),
}
const isTicketKey = (value: unknown) => {
  if (typeof value !== 'string') return false
  const bytes = Buffer.from(value, 'base64')
  return bytes.length === TICKET_KEY_LENGTH && bytes.toString('base64') === value
}
const TICKET_KEYS: Members<TicketKeysFrame> = {
  keys: member<string[]>(
    `an array of 1 to ${MAX_TICKET_KEYS} strings, each ${TICKET_KEY_LENGTH} bytes in base64`,
    (value) =>
      Array.isArray(value) &&
      value.length >= 1 &&
      value.length <= MAX_TICKET_KEYS &&
      value.every(isTicketKey),
  ),
}
const STATS: Members<StatsFrame> = { adopted: count, closed: count, lag: milliseconds }

const MEMBERS: Record<JsonFrame['type'], Readonly<Record<string, Member<unknown>>>> = {
  hello: HELLO,
  welcome: WELCOME,
  refused: REFUSED,
  reconnect: RECONNECT,
  drain: DRAIN,
  drained: {},
  heartbeat: HEARTBEAT,
  stats: STATS,
  rebalance: REBALANCE,
  resumes: RESUMES,
  ticket_keys: TICKET_KEYS,
}

/**
 * Checks and copies the known members of `source`, and adds `type`. An absent nullable member becomes null. `fail` creates the
 * error to throw from a message that names the member but not its value.
 */
export function takeMembers(
  type: JsonFrame['type'],
  source: unknown,
  fail: (message: string) => Error,
): Record<string, unknown> {
  if (!isJsonObject(source)) throw fail('payload is not a JSON object')
  const taken: Record<string, unknown> = { type }
  for (const [key, wanted] of Object.entries(MEMBERS[type])) {
    const value = source[key] ?? null
    if (!wanted.accepts(value))
      throw fail(`member "${key}" is ${describe(source[key])}, wanted ${wanted.wanted}`)
    taken[key] = value
  }
  return taken
}

function describe(value: unknown): string {
  if (value === undefined) return 'absent'
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  return typeof value === 'object' ? 'an object' : `a ${typeof value} not accepted here`
}
