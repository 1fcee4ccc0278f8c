import { readFileSync } from 'node:fs'

/**
 * Reads and merges the journals of all backends.
 *
 * `readBy`: instance by request id. `adoptions`: for the ports in `wanted` (`service/port`), in order of time.
 * `counts`: by instance and service. `owned`: connections by service and way, again for each time that one was handed back and adopted.
 * `movedAt`, `lastMovedAt`: when a connection was handed back first, and last, by its ULID. `doubles`: requests or connections recorded by two processes, or twice by one, without having been handed back in between.
 */
export function readJournals(backends, lastId, wanted) {
  const readBy = new Uint16Array(lastId + 1)
  const adoptions = new Map()
  const owners = new Map()
  const counts = new Map()
  const owned = {}
  const doubles = []
  /** Connections that more than one process has adopted as a descriptor, with all who did; how often each was handed back. */
  const several = new Map()
  const moves = new Map()
  /** When a connection was handed back first. */
  const movedAt = new Map()
  const lastMovedAt = new Map()
  /** `instance/connection` of relays that ended without a byte from the client. */
  const untouched = new Set()
  /** Adoptions of a relay whose ACK crossed its deadline: the broker had cut it, and given the client to another backend. */
  let crossedRelays = 0
  for (const { instance, journalPath } of backends) {
    for (const line of journal(journalPath)) {
      const [what, time, service, port, ...rest] = line.split(' ')
      if (what === 'r') {
        const id = Number(rest[0])
        if (!(id > 0 && id <= lastId))
          doubles.push(`backend ${instance} read a request that was never sent: ${line}`)
        else if (readBy[id] !== 0)
          doubles.push(`request ${id} was read by backend ${readBy[id]} and by ${instance}`)
        else readBy[id] = instance
        continue
      }
      if (what === 'm') {
        moves.set(rest[0], (moves.get(rest[0]) ?? 0) + 1)
        movedAt.set(rest[0], Math.min(movedAt.get(rest[0]) ?? Infinity, Number(time)))
        lastMovedAt.set(rest[0], Math.max(lastMovedAt.get(rest[0]) ?? 0, Number(time)))
        continue
      }
      if (what === 'u') {
        untouched.add(`${instance}/${rest[0]}`)
        continue
      }
      const [via, connection] = rest
      const count = counts.get(`${instance}/${service}`) ?? { handoff: 0, relay: 0 }
      count[via] += 1
      counts.set(`${instance}/${service}`, count)
      owned[service] ??= { handoff: 0, relay: 0 }
      const owner = owners.get(connection)
      if (owner === undefined) owned[service][via] += 1
      else if (via === 'relay' || owner.via === 'relay') crossedRelays += 1
      else {
        owned[service].handoff += 1
        several.set(connection, [...(several.get(connection) ?? [owner.instance]), instance])
      }
      if (via === 'handoff' && owner?.via === 'relay') {
        owned[service].relay -= 1
        owned[service].handoff += 1
      }
      if (owner?.via !== 'handoff') owners.set(connection, { instance, via })
      const key = `${service}/${port}`
      if (!wanted.has(key)) continue
      const list = adoptions.get(key)
      const adoption = { time: Number(time), instance, via, connection }
      if (list === undefined) adoptions.set(key, [adoption])
      else list.push(adoption)
    }
  }
  for (const [connection, instances] of several) {
    if (instances.length > 1 + (moves.get(connection) ?? 0))
      doubles.push(`connection ${connection} was adopted by backends ${instances.join(', ')}`)
  }
  for (const list of adoptions.values()) {
    list.sort((a, b) => a.time - b.time)
    for (const each of list) each.untouched = untouched.has(`${each.instance}/${each.connection}`)
  }
  return { readBy, adoptions, counts, owned, doubles, crossedRelays, movedAt, lastMovedAt }
}

function journal(path) {
  try {
    return readFileSync(path, 'latin1').split('\n').slice(0, -1)
  } catch (error) {
    // It died before its first record.
    if (error.code === 'ENOENT') return []
    throw error
  }
}
