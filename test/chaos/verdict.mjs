import { readJournals } from './journals.mjs'

/**
 * Of a listener in one turn of a worker's event loop, and hand-backs of a giver: what a worker has counted in the turn in which it is killed is lost.
 */
const MAX_ACCEPTS = 64

/** In a run that kills no process of the broker. */
const NO_KILLS = { workersKilled: [], workersEnded: [], outages: [] }

/** A client learns of a kill at once; this is the allowed delay, in microseconds per millisecond of patience. */
const AFTER_KILL = 5_000_000 / 60_000

/** Allowed failures of clients, each counted separately. Everything else is a violation. */
const ALLOWED = {
  killed: 'request in progress in a backend that was killed',
  unread: 'adopted, and killed before the request was read',
  unwritten: 'ACKed, and killed before the adoption was written down',
  'kept, killed': 'next request on a kept connection of a killed backend',
  'kept, drained': 'next request on a kept connection of a draining backend',
  deadline: 'cut at the drain deadline',
  idle: 'idle connection of a killed or draining backend closed',
  worker: 'in a worker that was killed: accepted, and not yet with a backend',
  returned: 'in a worker that was killed: handed back, and not yet with the next backend',
  relay: 'relayed by a worker that was killed',
  'old relay': 'relayed by the oldest of too many finishing workers, which was ended',
  outage: 'no process of the broker was alive',
}

/** Failures that no fault excuses. */
const NEVER = /^(wrong answer|no answer in time|unexpected bytes)/

/**
 * Compares what the clients saw with the backends' journals and the broker's counts.
 *
 * @returns `allowed`: counts by the texts in ALLOWED; `violations`: texts, by invariant
 */
export function judge({ backends, failures, answers, load, status, patience = 60_000, kills = NO_KILLS }) {
  const wanted = new Set(failures.map(({ service, port }) => `${service}/${port}`))
  const journals = readJournals(backends, answers.length - 1, wanted)
  const violations = []
  const violate = (invariant, text) => violations.push(`${invariant}: ${text}`)

  for (const text of journals.doubles) violate('I1', text)
  for (let id = 1; id < answers.length; id++) {
    if (answers[id] === 0 || answers[id] === journals.readBy[id]) continue
    violate('I1', `request ${id} was answered by backend ${answers[id]} and read by ${journals.readBy[id]}`)
  }

  const unwritten = conserve(status, load, journals, kills, violate)
  survivors(status, backends, journals, kills, violate)

  const allowed = {}
  const byInstance = new Map(backends.map((backend) => [backend.instance, backend]))
  for (const failure of failures) {
    const facts = { journals, byInstance, backends, unwritten, patience, kills }
    const excuse = explainByBroker(failure, facts) ?? explain(failure, facts)
    if (excuse === undefined) violate('I5', tell(failure, journals, byInstance))
    else allowed[ALLOWED[excuse]] = (allowed[ALLOWED[excuse]] ?? 0) + 1
  }
  return { allowed, violations, crossedRelays: journals.crossedRelays, owned: journals.owned }
}

/**
 * I4 for adoptions. Returns, by service, the number of ACKed connections without an adoption in a journal.
 * Their processes died in between, so each may explain one client that failed without an adoption.
 */
function conserve(status, { connected }, { owned }, { workersKilled, outages }, violate) {
  const accepted = status.listeners.reduce((sum, listener) => sum + listener.accepted, 0)
  // The counters of all workers begin again when all processes of the broker were killed.
  const mayBeLess = workersKilled.length * status.listeners.length * MAX_ACCEPTS
  if (outages.length === 0 && (accepted > connected || connected - accepted > mayBeLess))
    violate('I4', `clients established ${connected} connections, ${accepted} were accepted`)
  const unwritten = {}
  for (const { name, held, inFlight, parked, handedBack, outcomes } of status.services) {
    const here = status.listeners
      .filter(({ service }) => service === name)
      .reduce((sum, each) => sum + each.accepted, 0)
    const accounted = Object.values(outcomes).reduce((a, b) => a + b, held + inFlight + parked)
    if (here + handedBack !== accounted)
      violate('I4', `${name}: ${here} accepted, ${handedBack} handed back, ${accounted} accounted for`)
    for (const outcome of ['rejected', 'relinquished']) {
      if (outcomes[outcome] !== 0) violate('I5', `${name}: ${outcomes[outcome]} clients were ${outcome}`)
    }
    const { handoff = 0, relay = 0 } = owned[name] ?? {}
    const uncounted = (outcomes.lost ?? 0) + connected - accepted
    unwritten[name] = uncounted + outcomes.handed_off - handoff + Math.max(0, outcomes.relayed - relay)
    if (outages.length > 0) unwritten[name] = Infinity
    else if (outcomes.handed_off + uncounted + workersKilled.length * MAX_ACCEPTS < handoff) {
      violate('I1', `${name}: ${handoff} descriptors were adopted, ${outcomes.handed_off} ACKed`)
    }
  }
  return unwritten
}

/** A process that survived has recorded everything that it ACKed. */
function survivors(status, backends, { counts }, { workersKilled }, violate) {
  for (const { name, backends: registered } of status.services) {
    for (const { pid, adopted } of registered) {
      const backend = backends.find((each) => each.alive && each.pid === pid)
      if (backend === undefined) {
        violate('I4', `${name}: pid ${pid} is registered and not alive`)
        continue
      }
      const { handoff, relay } = counts.get(`${backend.instance}/${name}`) ?? { handoff: 0, relay: 0 }
      // A relay whose ACK came too late was adopted, but not counted.
      // A worker that was killed had the count of its own session.
      const isLess = adopted < handoff && workersKilled.length === 0
      if (isLess || adopted > handoff + relay) {
        violate(
          'I4',
          `${name}: backend ${backend.instance} ACKed ${adopted}, adopted ${handoff} and ${relay} relays`,
        )
      }
    }
  }
}

function explain(failure, { journals, byInstance, backends, unwritten, patience }) {
  const { service, id, what, answers, at } = failure
  if (NEVER.test(what)) return undefined
  const owner = ownerOf(failure, journals)
  if (owner === undefined || isElsewhere(failure, owner, { journals, byInstance })) {
    const killed = backends.some(({ killedAt }) => killedAt <= at && at - killedAt < patience * AFTER_KILL)
    if (!killed || unwritten[service] <= 0) return undefined
    unwritten[service] -= 1
    return 'unwritten'
  }
  const { killedAt, drain } = byInstance.get(owner.instance)
  const read = id !== 0 && journals.readBy[id] === owner.instance
  if (killedAt <= at) {
    if (id === 0) return 'idle'
    if (read) return 'killed'
    return answers > 0 ? 'kept, killed' : 'unread'
  }
  if (drain === undefined || drain.at > at) return undefined
  if (drain.at + drain.deadline * 1000 <= at) return 'deadline'
  // HTTP cannot announce that a kept connection is about to end: a request may cross its FIN (RFC 9112, 9.6).
  if (failure.kind !== 'keep-alive' || answers === 0 || read) return undefined
  return id === 0 ? 'idle' : 'kept, drained'
}

/** A backend that lives on had handed it back: if another one had it, that one did not write it down. */
function isElsewhere({ at }, { instance, connection, time }, { journals, byInstance }) {
  const movedAt = journals.lastMovedAt.get(connection)
  return time <= movedAt && movedAt <= at && !(byInstance.get(instance).killedAt <= at)
}

/** Failures that a kill of the broker's own processes excuses: never the end of a connection that a backend had. */
function explainByBroker(failure, { journals, patience, kills: { workersKilled, workersEnded, outages } }) {
  const { what, begun, at } = failure
  if (NEVER.test(what)) return undefined
  const owner = ownerOf(failure, journals)
  const isRelayed = owner?.via === 'relay'
  const isRecent = (time) => time <= at && at - time < patience * AFTER_KILL
  const wasKilled = (from) => workersKilled.some((time) => from <= time && isRecent(time))
  const isOut = outages.some(([from, to]) => begun <= to && (from <= at || isRecent(from)))
  const movedAt = owner === undefined ? undefined : journals.movedAt.get(owner.connection)
  if (movedAt <= at && wasKilled(movedAt)) return 'returned'
  if (isRelayed && wasKilled(begun)) return 'relay'
  if (isRelayed && workersEnded.some(isRecent)) return 'old relay'
  if (owner !== undefined && !isRelayed) return undefined
  if (owner === undefined && wasKilled(begun)) return 'worker'
  return isOut ? 'outage' : undefined
}

/**
 * The backend that had the client's connection. The first adopted connection from its port is the client's own: after a RST the
 * kernel may reuse the port before a busy client has noticed. Of one connection it is the last owner, because a relay that was
 * cut may have come first; but a backend that slept through its offer adopts a relay long after the broker has cut it and
 * given the client to another backend, and that relay ends without a byte.
 */
function ownerOf(failure, journals) {
  const candidates = candidatesOf(failure, journals)
  return candidates.findLast(({ untouched }) => !untouched) ?? candidates.at(-1)
}

/** All adoptions of the client's connection until its failure. */
function candidatesOf({ service, port, begun, at }, { adoptions }) {
  const during = (adoptions.get(`${service}/${port}`) ?? []).filter(({ time }) => begun <= time && time <= at)
  return during.filter(({ connection }) => connection === during[0].connection)
}

function tell(failure, journals, byInstance) {
  const owner = ownerOf(failure, journals)
  const story = { ...failure, lasted: `${Math.round((failure.at - failure.begun) / 1000)} ms` }
  if (owner === undefined) return `${JSON.stringify(story)}, never adopted`
  const { instance, pid, killedAt, drain } = byInstance.get(owner.instance)
  const adoptions = candidatesOf(failure, journals)
  return `${JSON.stringify(story)}, ${JSON.stringify({ owner, instance, pid, killedAt, drain, readBy: journals.readBy[failure.id], adoptions })}`
}
