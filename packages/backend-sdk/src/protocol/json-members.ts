/**
 * The members of each JSON payload and what they accept. Both directions go through these tables, so what
 * is encoded is what a decoder takes.
 */
import type {
  DrainFrame,
  HeartbeatFrame,
  HelloFrame,
  JsonFrame,
  ReconnectFrame,
  RefusedFrame,
  StatsFrame,
  WelcomeFrame,
} from './frames.ts'
import { isUlid } from './ulid.ts'

interface Member<T> {
  /** What is wanted, in words for the error. */
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

const text = member<string>('a string', (value) => typeof value === 'string')
const name = member<string>(
  'a string that is not empty',
  (value) => typeof value === 'string' && value !== '',
)
const flag = member<boolean>('a boolean', (value) => typeof value === 'boolean')
const ulid = member<string>('a ULID', (value) => typeof value === 'string' && isUlid(value))
const names = member<string[]>(
  'an array of strings',
  (value) => Array.isArray(value) && value.every(text.accepts),
)

const numberWhere = (wanted: string, test: (value: number) => boolean): Member<number> =>
  member(wanted, (value) => typeof value === 'number' && test(value))

const count = numberWhere('an integer from 0', (value) => Number.isSafeInteger(value) && value >= 0)
const positive = numberWhere('an integer from 1', (value) => Number.isSafeInteger(value) && value >= 1)
const milliseconds = numberWhere('milliseconds from 0', (value) => Number.isFinite(value) && value >= 0)
const period = numberWhere('milliseconds above 0', (value) => Number.isFinite(value) && value > 0)
const weight = numberWhere('a number above 0 and up to 1000', (value) => value > 0 && value <= 1000)

const endpoint = member<{ path: string }>(
  'an object with a string `path`',
  (value) => isJsonObject(value) && name.accepts(value['path']),
)

const HELLO: Members<HelloFrame> = {
  protocol: positive,
  capabilities: names,
  service: name,
  version: orNull(text),
  weight,
  pid: positive,
  backend: orNull(ulid),
  sdk: text,
  secret: orNull(text),
  reconnect: orNull(endpoint),
}

const WELCOME: Members<WelcomeFrame> = {
  protocol: positive,
  capabilities: names,
  broker: ulid,
  backend: ulid,
  slot: name,
  service: name,
  heartbeatInterval: period,
  tokenTtl: period,
  ackDeadline: period,
}

const REFUSED: Members<RefusedFrame> = {
  code: name,
  message: text,
  retry: flag,
  retryAfter: orNull(milliseconds),
}
const RECONNECT: Members<ReconnectFrame> = { reason: text }
const DRAIN: Members<DrainFrame> = { deadline: orNull(milliseconds), reason: text }
const HEARTBEAT: Members<HeartbeatFrame> = { id: count, reply: flag }
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
}

/**
 * Copies the known members of `source` beside `type`, checked; a nullable member that is absent is null.
 * `fail` makes the error to throw from words that name the member and no value.
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
