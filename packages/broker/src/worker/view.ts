import type { Shift, ShiftStatus } from '../api/shift.ts'
import type { ServiceStatus } from '../api/status.ts'
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

/** Reports on the backends of all services, for the master. */
export function backendReports(services: Iterable<Service>): BackendReport[] {
  return [...services].flatMap((service) =>
    [...service.links].map((link) => {
      const { ulid: id, slot, pid, uid, started = null, owner = null, version } = link.identity
      const { state } = link.eligibility
      const tally = { ...link.eligibility.tally }
      return { service: service.name, id, slot, pid, uid, started, owner, state, version, tally }
    }),
  )
}
