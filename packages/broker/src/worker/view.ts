import type { Shift, ShiftStatus } from '../api/shift.ts'
import type { BrokerFacts } from '../api/master-status.ts'
import type { ServiceStatus, Status } from '../api/status.ts'
import { formatAddress } from '../config/address.ts'
import type { Control } from '../ipc/controls.ts'
import type { BackendReport } from '../ipc/messages.ts'
import { monotonic } from './copies/held-client.ts'
import type { Counted } from './events/rates.ts'
import type { Service } from './service/service.ts'

/** A service as the admin API shows it. */
export function serviceStatus(service: Service): ServiceStatus {
  const { lateAnswers, outcomes, movedIn, movedOut, taken, givenBack, handBacksRefused } =
    service.serviceStats
  return {
    name: service.name,
    balance: service.config.balance,
    handoff: service.config.handoff,
    shift: shiftStatus(service.shifting.shift),
    held: service.held,
    inFlight: service.inFlight,
    stuck: service.stuck,
    relaying: service.relaying,
    parked: service.parkedCount,
    handedBack: taken,
    givenBack,
    handBacksRefused,
    lateAnswers,
    outcomes: { ...outcomes },
    movedIn,
    movedOut,
    ...controlStatus(service.controlled),
    upstreams: service.config.upstreams.map(({ address, weight }) => ({
      address: formatAddress(address),
      weight,
    })),
    backends: [...service.links].map((link) => {
      const { ulid: id, slot, pid, uid, version, weight, registeredAt } = link.identity
      const { adopted, closed, lag, handedBack, givenBack: kept } = link.counts
      return {
        id,
        slot,
        state: link.eligibility.state,
        pid,
        uid,
        version,
        weight,
        load: link.load,
        adopted,
        closed,
        handedBack,
        givenBack: kept,
        lagMs: lag,
        registeredAt: registeredAt.toISOString(),
      }
    }),
  }
}

function controlStatus({
  paused,
  maintenance,
}: Control): Required<Pick<ServiceStatus, 'paused' | 'maintenance'>> {
  return {
    paused: paused && {
      since: paused.since,
      until: paused.until === null ? null : new Date(Date.now() + paused.until - monotonic()).toISOString(),
    },
    maintenance: maintenance && {
      since: maintenance.since,
      bytes: Buffer.byteLength(maintenance.page, 'base64'),
    },
  }
}

function shiftStatus(shift: Shift | undefined): ShiftStatus | null {
  if (shift === undefined) return null
  const { to, share, canary = false } = shift
  return { to, share: share / 100, canary }
}

/** Raw counters from which the event stream computes rates. */
export function countedOf({ name, serviceStats }: Service): Counted {
  return {
    name,
    accepted: serviceStats.accepted,
    handedOff: serviceStats.outcomes.handed_off,
    fallbacks: Object.fromEntries(serviceStats.fallbacks),
    rejects: Object.fromEntries(serviceStats.rejections),
    handedBack: serviceStats.taken,
    notTaken: Object.fromEntries(serviceStats.reasonsNotTaken),
    latency: serviceStats.latency.snapshot(),
  }
}

/** Open connections: those that backends have, and those that wait, are on their way, or are relayed here. */
export function connectionCount(services: Iterable<Service>): number {
  let count = 0
  for (const { held, inFlight, parkedCount, relaying, links } of services) {
    count += held + inFlight + parkedCount + relaying
    for (const { live } of links) count += live
  }
  return count
}

/** A broker without a master in short, for `baton ls`. */
export function brokerFacts(
  { broker, listeners, services }: Status,
  config: string,
  connections: number,
): BrokerFacts {
  return {
    config,
    kind: 'start',
    version: broker.version,
    startedAt: broker.startedAt,
    listeners: listeners.map(({ name, address }) => ({ name, address })),
    services: services.map(({ name, backends }) => ({
      name,
      backends: backends.length,
      ready: backends.filter(({ state }) => state === 'ready').length,
    })),
    connections,
  }
}

/** Reports on the backends of all services, for the master. */
export function backendReports(services: Iterable<Service>): BackendReport[] {
  return [...services].flatMap((service) =>
    [...service.links].map((link) => {
      const { ulid: id, slot, pid, uid, started = null, owner = null, version } = link.identity
      const { state, health } = link.eligibility
      const tally = { ...link.eligibility.tally }
      const process = { pid, uid, started, owner }
      return {
        service: service.name,
        id,
        slot,
        ...process,
        state,
        healthy: health === 'healthy',
        version,
        tally,
      }
    }),
  )
}
