import type { IncomingHttpHeaders } from 'node:http'

import { BROKER_IDENTITY, identityOfBroker } from '../../api/broker-identity.ts'
import { isLoopback, type Address } from '../../config/address.ts'
import type { Secret } from '../../config/secret.ts'
import { AdminError } from './errors.ts'
import { PAGE_ROUTES } from './page.ts'
import { quoted } from './quoted.ts'

export interface GuardedRequest {
  readonly method: string
  /** The pattern of the matched route, undefined when none matched. */
  readonly route: string | undefined
  readonly headers: IncomingHttpHeaders
}

/** The part of its configuration that decides. */
export interface GuardedBroker {
  readonly runtimeDir: string
  readonly admin: { readonly listen: Address; readonly token: Secret | null }
}

/** Routes for machines and browsers without a token. They reveal nothing that requires one. */
const OPEN_ROUTES = new Set<string>(['/healthz', '/readyz', ...PAGE_ROUTES])

/**
 * Decides whether a request may be answered. Any page can make a browser on this host send requests here, so listening on loopback
 * is not enough: the Host header must name this server (with DNS rebinding it names the attacker's), and a request that changes
 * something must not come from another origin.
 *
 * @returns the refusal, or undefined
 */
export function guard({ admin, runtimeDir }: GuardedBroker, request: GuardedRequest): AdminError | undefined {
  return (
    checkHost(admin.listen, request.headers.host) ??
    checkOrigin(request) ??
    (admin.token === null ? undefined : checkToken(admin.token, request)) ??
    checkBroker(runtimeDir, request.headers[BROKER_IDENTITY])
  )
}

/** A command that was typed in the folder of another broker would pause this one. */
function checkBroker(runtimeDir: string, meant: string | string[] | undefined): AdminError | undefined {
  const own = meant === undefined ? undefined : identityOfBroker(runtimeDir)
  if (own === undefined || own === meant) return undefined
  const message = `another broker listens at admin.listen, that of ${runtimeDir}: give each broker an address of its own`
  return new AdminError('BATON_ERR_ADMIN_OTHER_BROKER', message)
}

function checkHost(listen: Address, host: string | undefined): AdminError | undefined {
  // Other addresses require a token, and a page that knows it does not need DNS rebinding. A browser cannot reach a Unix socket, and
  // always sends Host.
  if (listen.kind === 'unix' || !isLoopback(listen) || host === undefined) return undefined
  const name = host
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase()
  if (['localhost', '127.0.0.1', '::1', listen.host].includes(name)) return undefined
  return new AdminError(
    'BATON_ERR_ADMIN_HOST',
    `the Host header names ${quoted(host)}, which is not this server`,
  )
}

function checkOrigin({ method, headers }: GuardedRequest): AdminError | undefined {
  if (method === 'GET' || method === 'HEAD') return undefined
  if (isOwnPage(headers) && isSameSite(headers)) return undefined
  return new AdminError('BATON_ERR_ADMIN_ORIGIN', 'requests from pages of another origin are not allowed')
}

/** Clients other than browsers send no Origin. */
function isOwnPage({ origin, host }: IncomingHttpHeaders): boolean {
  if (origin === undefined) return true
  // A sandboxed page sends "null", which is not a URL.
  return URL.canParse(origin) && new URL(origin).host === host?.toLowerCase()
}

/** Set by the browser, beyond the page's control (https://w3c.github.io/webappsec-fetch-metadata/). */
function isSameSite({ 'sec-fetch-site': site }: IncomingHttpHeaders): boolean {
  return site === undefined || site === 'same-origin' || site === 'none'
}

function checkToken(token: Secret, { route, headers }: GuardedRequest): AdminError | undefined {
  if (route !== undefined && OPEN_ROUTES.has(route)) return undefined
  const sent = /^Bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1]
  if (sent === undefined)
    return new AdminError('BATON_ERR_ADMIN_UNAUTHORIZED', 'send "Authorization: Bearer TOKEN"')
  return token.matches(sent)
    ? undefined
    : new AdminError('BATON_ERR_ADMIN_UNAUTHORIZED', 'the token is wrong')
}
