import type { LimitsStatus, ListenerStatus, RouteStatus } from '../../api/status.ts'
import { printable } from '../../log/printable.ts'
import type { Paint } from './colours.ts'
import { table } from './table.ts'

/** The listeners, and below them their routes and limits, where there are any. */
export function describeListeners(listeners: readonly ListenerStatus[], paint: Paint): string[] {
  const routed = listeners.filter(({ routes = [] }) => routes.length > 0)
  return [
    ...table(
      [
        ['LISTENER', 'ADDRESS', 'PROTOCOL', 'SERVICE', 'ACCEPTED'],
        ...listeners.map(({ name, address, protocol, service, accepted }) => [
          name,
          address,
          protocol,
          service ?? '-',
          accepted,
        ]),
      ],
      paint,
    ),
    ...listeners.flatMap(describeLimits),
    ...listeners.flatMap((listener) => describeUnrouted(listener, paint)),
    ...(routed.length === 0
      ? []
      : ['', ...table([['ROUTES', 'WHEN', 'SERVICE', 'VERSION'], ...routed.flatMap(rows)], paint)]),
  ]
}

function rows({ name, routes = [], service }: ListenerStatus): (string | number)[][] {
  return [
    ...routes.map((route) => [name, conditions(route), route.service ?? 'rejected', route.version ?? '-']),
    [name, 'otherwise', service ?? 'rejected', '-'],
  ]
}

function conditions({ sni, alpn, host, path, header = [], cookie = [] }: RouteStatus): string {
  const named = Object.entries({ sni, alpn, host, path }).flatMap(([key, value]) =>
    value === undefined ? [] : [`${key} ${value}`],
  )
  const all = [...named, ...header.map((name) => `header ${name}`), ...cookie.map((name) => `cookie ${name}`)]
  return all.length === 0 ? 'always' : all.join(', ')
}

function describeLimits({ name, limits }: ListenerStatus): string[] {
  const parts = limits ? partsOf(limits) : []
  return parts.length === 0 ? [] : [printable(`${name} admits ${parts.join('; ')}`)]
}

function partsOf({ connections, perSource }: LimitsStatus): string[] {
  const { connections: open = null, rate = null, burst = null } = perSource ?? {}
  const ofSource = [
    ...(open === null ? [] : [countOf(open)]),
    ...(rate === null ? [] : [`${rate}${burst === null ? '' : ` (${burst} at once)`}`]),
  ]
  return [
    ...(connections === null ? [] : [countOf(connections)]),
    ...(ofSource.length === 0 ? [] : [`of each source ${ofSource.join(', ')}`]),
  ]
}

function countOf(connections: number): string {
  return `${connections} connection${connections === 1 ? '' : 's'}`
}

/** Not those whose client left before the choice, or that a stop has ended: nothing is wrong with them. */
function describeUnrouted({ name, unrouted }: ListenerStatus, paint: Paint): string[] {
  const counts = Object.entries(unrouted ?? {}).filter(
    ([reason, count]) => count > 0 && reason !== 'client_gone' && reason !== 'shutdown',
  )
  if (counts.length === 0) return []
  const text = counts.map(([reason, count]) => `${count} ${reason}`).join(', ')
  return [paint('yellow', printable(`of the connections of ${name}, these went to no service: ${text}`))]
}
