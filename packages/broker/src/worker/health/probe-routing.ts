import type { LinkHost } from '../backend/link-host.ts'

/**
 * A link's host that tells health checks apart: what becomes of a check is said to who made it, and `host` hears of clients
 * alone. So a check is neither an outcome nor a failure of the service, and is never offered again.
 */
export function apartFromProbes(host: LinkHost): LinkHost {
  return {
    ...host,
    handedOff: (connections) => {
      for (const { probe } of connections) probe?.handedOff()
      const clients = connections.filter(({ probe }) => probe === undefined)
      if (clients.length > 0) host.handedOff(clients)
    },
    relayed: (connection, upstream) =>
      connection.probe ? connection.probe.relayed(upstream) : host.relayed(connection, upstream),
    returned: (connections, failure, by) => {
      for (const { probe } of connections) probe?.returned(failure)
      const clients = connections.filter(({ probe }) => probe === undefined)
      if (clients.length > 0) host.returned(clients, failure, by)
    },
    relinquished: (connection) =>
      connection.probe ? connection.probe.relinquished() : host.relinquished(connection),
  }
}
