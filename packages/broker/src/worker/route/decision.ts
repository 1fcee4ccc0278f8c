import { readClientHello } from './parse/client-hello.ts'
import { type IncomingProxyHeader, readProxyHeader } from './parse/proxy-header.ts'
import { parseHead, type RequestHead, scanHead } from './parse/request-head.ts'
import type { Route, RouteTable } from './table.ts'

// Decides about a connection by the bytes that have arrived on it. No I/O.

/** Bytes of a connection that are looked at, at most. */
export const MAX_PEEK = 16 * 1024

/** The next thing that a connection has to show: a PROXY header, or what routes depend on. */
export type Stage = 'proxy' | 'content'

/** The result of an earlier look. */
export interface Progress {
  /** TLS: bytes that must be there before another look is worth it. HTTP: bytes that need not be scanned again. */
  readonly seen: number
}

export type Decision =
  | { readonly action: 'wait'; readonly progress: Progress }
  /** Consume exactly the header, and go on with what follows it. */
  | { readonly action: 'consume'; readonly header: IncomingProxyHeader }
  /** No route matches, or nothing can be decided: the listener's own service. `head`: of an HTTP request that could be read. */
  | { readonly action: 'fallback'; readonly head?: RequestHead | undefined }
  | { readonly action: 'route'; readonly route: Route; readonly head?: RequestHead | undefined }
  /** HTTP parsers could read it in two ways. */
  | { readonly action: 'refuse' }
  /** A trusted peer has sent no header, or a broken one. */
  | { readonly action: 'no-header' }

/** Fate of a connection after a look. `gone`: no backend could serve it. */
export type Verdict = Decision | { readonly action: 'gone' }

const FALLBACK = { action: 'fallback' } as const
const GONE = { action: 'gone' } as const

/** Whether the connection need not be looked at any more. */
export function isLast({ action }: Verdict): boolean {
  return action !== 'wait' && action !== 'consume'
}

/**
 * @param bytes everything that has arrived, at most `MAX_PEEK`; undefined: nothing yet; empty: the end
 * @param looked what is known from looks before; `ended`: no more bytes will come
 * @param table undefined if nothing depends on more than the PROXY header, or on the head itself
 */
export function verdictOn(
  bytes: Buffer | undefined,
  looked: { readonly stage: Stage; readonly progress: Progress; readonly ended: boolean },
  protocol: 'http' | 'tls' | 'tcp',
  table: RouteTable | undefined,
): Verdict {
  const { stage, progress, ended } = looked
  if (bytes === undefined) return ended ? GONE : { action: 'wait', progress }
  if (bytes.length === 0) return GONE
  const decision = decide(bytes, stage, progress, protocol, table)
  // Half a request, or half a hello: no backend could serve it.
  return ended && decision.action === 'wait' ? GONE : decision
}

function decide(
  bytes: Buffer,
  stage: Stage,
  progress: Progress,
  protocol: 'http' | 'tls' | 'tcp',
  table: RouteTable | undefined,
): Decision {
  if (stage === 'proxy') return decideHeader(bytes)
  return protocol === 'tcp' ? FALLBACK : decideContent(bytes, protocol, table, progress)
}

export function decideHeader(bytes: Buffer): Decision {
  const reading = readProxyHeader(bytes)
  if (reading.state === 'found') return { action: 'consume', header: reading.header }
  return reading.state === 'more'
    ? { action: 'wait', progress: { seen: reading.bytes } }
    : { action: 'no-header' }
}

/**
 * @param bytes everything that has arrived, at most `MAX_PEEK`: of that many, nothing is waited for
 * @param table undefined if only the head itself is wanted: then none is refused
 */
export function decideContent(
  bytes: Buffer,
  protocol: 'http' | 'tls',
  table: RouteTable | undefined,
  progress: Progress,
): Decision {
  const decision =
    protocol === 'tls' ? decideHello(bytes, table, progress) : decideHead(bytes, table, progress)
  return decision.action === 'wait' && bytes.length >= MAX_PEEK ? FALLBACK : decision
}

function decideHello(bytes: Buffer, table: RouteTable | undefined, progress: Progress): Decision {
  if (table === undefined) return FALLBACK
  if (bytes.length < progress.seen) return { action: 'wait', progress }
  const reading = readClientHello(bytes)
  if (reading.state === 'not-tls') return FALLBACK
  if (reading.state === 'found') return routeOr(table.byHello(reading.hello), undefined)
  return reading.bytes > MAX_PEEK ? FALLBACK : { action: 'wait', progress: { seen: reading.bytes } }
}

function decideHead(bytes: Buffer, table: RouteTable | undefined, { seen }: Progress): Decision {
  const { end, fault, scanned } = scanHead(bytes, seen)
  const refused: Decision = table === undefined ? FALLBACK : { action: 'refuse' }
  if (fault !== undefined) return refused
  if (end === undefined) return { action: 'wait', progress: { seen: scanned } }
  const reading = parseHead(bytes, end)
  if (reading.state === 'http2') return FALLBACK
  if (reading.state !== 'found') return refused
  const { head } = reading
  if (table === undefined) return { action: 'fallback', head }
  if (table.isAmbiguous(head)) return refused
  return routeOr(table.byHead(head), head)
}

function routeOr(route: Route | undefined, head: RequestHead | undefined): Decision {
  return route === undefined ? { action: 'fallback', head } : { action: 'route', route, head }
}
