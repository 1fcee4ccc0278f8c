import { coversHost } from './host-pattern.ts'
import { acceptsPath } from './path-prefix.ts'

/** Conditions of a route, all of which must be met; the output side of the schema. */
export interface RouteConditions {
  readonly sni?: string | undefined
  readonly alpn?: string | undefined
  readonly host?: string | undefined
  readonly path?: string | undefined
  /** Values by field name in lower case; `*` accepts any. */
  readonly header?: Readonly<Record<string, string>> | undefined
  readonly cookie?: Readonly<Record<string, string>> | undefined
}

/** Conditions by the protocol whose connections can meet them. */
export const CONDITIONS = {
  http: ['host', 'path', 'header', 'cookie'],
  tls: ['sni', 'alpn'],
  tcp: [],
} as const satisfies Record<string, readonly (keyof RouteConditions)[]>

/** Whether `route` takes everything that `other` would take: behind it, `other` is never chosen. */
export function shadows(route: RouteConditions, other: RouteConditions): boolean {
  return (
    implied(route.sni, other.sni, coversHost) &&
    implied(route.alpn, other.alpn, (wanted, offered) => wanted === offered) &&
    implied(route.host, other.host, coversHost) &&
    implied(route.path, other.path, acceptsPath) &&
    implied(route.header, other.header, coversValues) &&
    implied(route.cookie, other.cookie, coversValues)
  )
}

/** A condition that is not there is always met. */
function implied<T>(
  condition: T | undefined,
  other: T | undefined,
  covers: (condition: T, other: T) => boolean,
): boolean {
  return condition === undefined || (other !== undefined && covers(condition, other))
}

function coversValues(
  values: Readonly<Record<string, string>>,
  others: Readonly<Record<string, string>>,
): boolean {
  return Object.entries(values).every(
    ([name, value]) => Object.hasOwn(others, name) && (value === '*' || others[name] === value),
  )
}
