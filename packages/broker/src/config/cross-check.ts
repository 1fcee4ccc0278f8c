import type * as z from 'zod'

import { formatAddress, isLoopback, MAX_UNIX_PATH_BYTES, type Address } from './address.ts'
import type { ConfigProblem } from './error.ts'
import { CONDITIONS, shadows } from './route-conditions.ts'
import { suggestion } from './problems.ts'
import type { schema } from './schema.ts'

/** Checks that span several values: references by name, and values that must fit together. */
export function crossCheck(parsed: z.output<typeof schema>, runtimeDir: string): ConfigProblem[] {
  return [
    ...listenerNames(parsed.listeners),
    ...serviceReferences(parsed.listeners, Object.keys(parsed.services)),
    ...parsed.listeners.flatMap((listener, index) => routeProblems(listener, `listeners[${index}]`)),
    ...parsed.listeners.flatMap((listener, index) => limitProblems(listener, `listeners[${index}].limits`)),
    ...addresses(parsed, runtimeDir),
    ...Object.entries(parsed.services).flatMap(([name, service]) => deadlines(name, service)),
    ...adminExposure(parsed.admin),
    ...controlPath(runtimeDir),
  ]
}

type Listeners = z.output<typeof schema>['listeners']
type Service = z.output<typeof schema>['services'][string]

function listenerNames(listeners: Listeners): ConfigProblem[] {
  const first = new Map<string, number>()
  return listeners.flatMap(({ name }, index) => {
    const other = first.get(name)
    if (other === undefined) {
      first.set(name, index)
      return []
    }
    return [
      { path: `listeners[${index}].name`, message: `"${name}" is already the name of listeners[${other}]` },
    ]
  })
}

function serviceReferences(listeners: Listeners, services: readonly string[]): ConfigProblem[] {
  const unknown = (service: string | null, path: string): ConfigProblem[] => {
    if (service === null || services.includes(service)) return []
    const message = `there is no service "${service}"${suggestion(service, services)}; there are: ${services.join(', ')}`
    return [{ path: `${path}.service`, message }]
  }
  return listeners.flatMap(({ service, routes }, index) => [
    ...unknown(service, `listeners[${index}]`),
    ...routes.flatMap((route, each) => unknown(route.service, `listeners[${index}].routes[${each}]`)),
  ])
}

/** Conditions that fit the protocol, and no route behind one that takes all of its connections. */
function routeProblems(
  { protocol, service, routes, proxyProtocol, listen }: Listeners[number],
  path: string,
): ConfigProblem[] {
  const problems: ConfigProblem[] = []
  if (service === null && routes.length === 0)
    problems.push({ path: `${path}.service`, message: 'must name a service: there are no routes' })
  if (protocol === 'tcp' && routes.length > 0)
    problems.push({ path: `${path}.routes`, message: 'needs the protocol "http" or "tls"' })
  const allowed: readonly string[] = CONDITIONS[protocol]
  for (const [index, route] of routes.entries()) {
    const at = `${path}.routes[${index}]`
    const { service: target, version, ...conditions } = route
    const set = Object.entries(conditions).flatMap(([key, value]) => (value === undefined ? [] : [key]))
    if (set.length === 0) problems.push({ path: at, message: 'needs a condition' })
    if (version !== undefined && target === null)
      problems.push({ path: `${at}.version`, message: 'has no effect: the connections are rejected' })
    for (const key of set)
      if (protocol !== 'tcp' && !allowed.includes(key))
        problems.push({
          path: `${at}.${key}`,
          message: `does not apply to the protocol "${protocol}"; its conditions are ${allowed.join(', ')}`,
        })
    const before = routes.findIndex((other, place) => place < index && shadows(other, route))
    if (before !== -1 && set.length > 0)
      problems.push({ path: at, message: `is never chosen: routes[${before}] takes all of its connections` })
  }
  for (const [index, { kind }] of (proxyProtocol?.from ?? []).entries())
    if ((kind === 'uid') !== (listen.kind === 'unix'))
      problems.push({
        path: `${path}.proxyProtocol.from[${index}]`,
        message:
          kind === 'uid'
            ? 'only peers of a Unix socket have a uid'
            : 'peers of a Unix socket have no address; use "uid:N"',
      })
  return problems
}

/** Every limit has an effect. */
function limitProblems({ limits, listen, proxyProtocol }: Listeners[number], path: string): ConfigProblem[] {
  if (limits === null) return []
  const { connections, perSource } = limits
  const problems: ConfigProblem[] = []
  const problem = (at: string, message: string) => problems.push({ path: `${path}${at}`, message })
  if (connections === null && perSource === null) problem('', 'needs connections or perSource')
  if (perSource !== null && perSource.connections === null && perSource.rate === null)
    problem('.perSource', 'needs connections or rate')
  if (perSource !== null && perSource.burst !== null && perSource.rate === null)
    problem('.perSource.burst', 'needs a rate')
  if (listen.kind !== 'unix') return problems
  if (connections !== null) problem('.connections', 'needs a TCP listener')
  if (perSource !== null && perSource.connections !== null)
    problem('.perSource.connections', 'needs a TCP listener')
  if (perSource !== null && perSource.rate !== null && proxyProtocol === null)
    problem('.perSource.rate', 'needs proxyProtocol: clients of a Unix socket have no address')
  return problems
}

function addresses(
  { admin, agentCheck, listeners }: z.output<typeof schema>,
  runtimeDir: string,
): ConfigProblem[] {
  const first = new Map<string, string>([
    [`unix:${runtimeDir}/control.sock`, 'the control socket'],
    [formatAddress(admin.listen), 'admin.listen'],
  ])
  const all: { readonly listen: Address; readonly path: string }[] = [
    ...(agentCheck === null ? [] : [{ listen: agentCheck, path: 'agentCheck' }]),
    ...listeners.map(({ listen }, index) => ({ listen, path: `listeners[${index}].listen` })),
  ]
  return all.flatMap(({ listen, path }) => {
    // With port 0, the kernel assigns each listener a different port.
    if (listen.kind === 'tcp' && listen.port === 0) return []
    const text = formatAddress(listen)
    const other = first.get(text)
    if (other === undefined) {
      first.set(text, path)
      return []
    }
    return [{ path, message: `${text} is already the address of ${other}` }]
  })
}

function deadlines(name: string, { ackDeadline, tokenTtl }: Service): ConfigProblem[] {
  if (ackDeadline < tokenTtl) return []
  // If the token expired first, every slow ACK would become a refusal.
  const message = `must be shorter than tokenTtl (${ackDeadline} ms, tokenTtl is ${tokenTtl} ms)`
  return [{ path: `services.${name}.ackDeadline`, message }]
}

function adminExposure({ listen, tokenFile }: z.output<typeof schema>['admin']): ConfigProblem[] {
  if (tokenFile !== null || isLoopback(listen)) return []
  const message = `${formatAddress(listen)} can be reached from other hosts: set admin.tokenFile, or listen on 127.0.0.1`
  return [{ path: 'admin.listen', message }]
}

function controlPath(runtimeDir: string): ConfigProblem[] {
  const bytes = Buffer.byteLength(`${runtimeDir}/control.sock`)
  if (bytes <= MAX_UNIX_PATH_BYTES) return []
  const message = `${runtimeDir}/control.sock has ${bytes} bytes; a socket path may have at most ${MAX_UNIX_PATH_BYTES}`
  return [{ path: 'runtimeDir', message }]
}
