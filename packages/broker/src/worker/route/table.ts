import { acceptsPath } from '../../config/path-prefix.ts'
import type { RouteConditions } from '../../config/route-conditions.ts'
import { HostIndex } from './host-index.ts'
import type { ClientHello } from './parse/client-hello.ts'
import { cookieOf, type RequestHead } from './parse/request-head.ts'

/** A route of the configuration: where connections go that meet its conditions. */
export interface Route extends RouteConditions {
  /** Null: they are rejected. */
  readonly service: string | null
  /** Only backends of this version may take its connections. */
  readonly version?: string | undefined
}

/**
 * Routes of one listener, prepared for matching. The first route of which all conditions are met is chosen; only those whose name fits are
 * looked at, so that hundreds of them cost little more than one.
 */
export class RouteTable {
  readonly #routes: readonly Route[]
  readonly #bySni: HostIndex
  readonly #byHost: HostIndex
  readonly #fields: readonly string[]

  constructor(routes: readonly Route[]) {
    this.#routes = routes
    this.#bySni = new HostIndex(routes.map(({ sni }) => sni))
    this.#byHost = new HostIndex(routes.map(({ host }) => host))
    this.#fields = [...new Set(routes.flatMap(({ header = {} }) => Object.keys(header)))]
  }

  /** Undefined: no route matches. */
  byHello({ sni, alpn }: ClientHello): Route | undefined {
    for (const index of this.#bySni.find(sni)) {
      const route = this.#routes[index] as Route
      if (route.alpn === undefined || alpn.includes(route.alpn)) return route
    }
    return undefined
  }

  /** Undefined: no route matches. */
  byHead(head: RequestHead): Route | undefined {
    for (const index of this.#byHost.find(head.host)) {
      const route = this.#routes[index] as Route
      if (meets(head, route)) return route
    }
    return undefined
  }

  /** Whether a field that routes depend on occurs twice: servers differ in which of them counts. */
  isAmbiguous({ fields }: RequestHead): boolean {
    return this.#fields.some((name) => (fields.get(name)?.length ?? 0) > 1)
  }
}

/** Whether the request meets all conditions beside that of its host. */
function meets(head: RequestHead, { path, header, cookie }: Route): boolean {
  if (path !== undefined && !acceptsPath(path, head.path)) return false
  if (header !== undefined && !accepts(header, (name) => head.fields.get(name)?.[0])) return false
  return cookie === undefined || accepts(cookie, (name) => cookieOf(head, name))
}

function accepts(
  wanted: Readonly<Record<string, string>>,
  read: (name: string) => string | undefined,
): boolean {
  return Object.entries(wanted).every(([name, value]) => {
    const found = read(name)
    return found !== undefined && (value === '*' || value === found)
  })
}
