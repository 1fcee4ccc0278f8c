import type { Logger } from 'pino'
import type { ServiceConfig } from '../../config/config.ts'
import { type CronTimes, readCron } from '../../config/schedule.ts'
import { formatDuration } from '../../config/duration.ts'
import { BrokerError } from '../../errors.ts'
import type { ReplacementReason } from '../../metrics/labels.ts'
import { residentBytes } from '../../supervise/proc.ts'
import type { ActiveConfig } from '../active-config.ts'
import { reportedState } from '../fleet/backend-report.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagedService } from '../fleet/managed-service.ts'
import { type FleetClock, fleetClock } from '../fleet/os.ts'
import type { OperationLock } from '../operation-lock.ts'
import type { Counters } from '../workers/counters.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import {
  formatSize,
  isEarly,
  look,
  MIN_PAUSE_MS,
  NO_SETBACKS,
  type Observed,
  setBack,
  type Setbacks,
} from './memory.ts'
import { Replacement } from './replacement.ts'

/** Between two looks at all processes, in ms. */
const LOOK_INTERVAL_MS = 1000

/** Parts of the master that the upkeep uses. */
export interface UpkeepParts {
  readonly fleet: Fleet
  readonly activeConfig: Pick<ActiveConfig, 'config'>
  readonly operationLock: OperationLock
  readonly logger: Logger
  readonly counters: Pick<Counters, 'replaced'>
  readonly workerPool: Pick<WorkerPool, 'reportChange'>
  readonly clock?: FleetClock
  /** Resident memory of a process, in bytes; undefined if there is none. */
  readonly memoryOf?: (pid: number) => number | undefined
}

/** A service with `maxMemory` or `restartEvery`. */
interface Kept {
  readonly config: ServiceConfig
  /** Undefined: no time is set, or it is a duration. */
  readonly cron: CronTimes | undefined
  /** By number of the instance. */
  readonly observed: Map<number, Observed>
  readonly setbacks: Map<number, Setbacks>
  /** No replacement because of memory before: CLOCK_MONOTONIC in ms. */
  pausedUntil: number
}

interface Due {
  readonly number: number
  readonly reason: ReplacementReason
  /** For people. */
  readonly why: string
}

/** Whether a service is one for the upkeep. */
export function isKept({ command, maxMemory, restartEvery }: ServiceConfig): boolean {
  return command !== null && (maxMemory !== null || restartEvery !== null)
}

/**
 * Replaces the processes of services with `maxMemory` that have more memory than that, and those of services with `restartEvery` when it is time: one at a
 * time for each service, and while there is no other operation. An operation that begins meanwhile comes first.
 */
export class Upkeep {
  readonly #parts: UpkeepParts
  readonly #clock: FleetClock
  readonly #kept: readonly Kept[]
  readonly #timer: NodeJS.Timeout
  #running: Replacement | undefined
  #hasLooked = false
  /** The service that comes first: one after the other, so that none that is always due keeps the others from it. */
  #turn = 0

  private constructor(parts: UpkeepParts, kept: readonly Kept[]) {
    this.#parts = parts
    this.#clock = parts.clock ?? fleetClock
    this.#kept = kept
    this.#timer = setInterval(() => this.look(), LOOK_INTERVAL_MS)
    this.#timer.unref()
  }

  /** @throws {Error} a cron expression cannot be read; the configuration was checked for that */
  static async start(parts: UpkeepParts): Promise<Upkeep> {
    const services = [...parts.activeConfig.config.services.values()].filter(isKept)
    const kept = await Promise.all(
      services.map(async (config): Promise<Kept> => {
        const { restartEvery } = config
        const cron = typeof restartEvery === 'string' ? await readCron(restartEvery) : undefined
        return { config, cron, observed: new Map(), setbacks: new Map(), pausedUntil: 0 }
      }),
    )
    return new Upkeep(parts, kept)
  }

  /** Looks at every process, and begins what is due. */
  look(): void {
    const { length } = this.#kept
    const first = this.#turn
    for (let at = 0; at < length; at++) {
      const index = (first + at) % length
      const kept = this.#kept[index] as Kept
      const service = this.#parts.fleet.service(kept.config.name)
      if (service === undefined) continue
      const due = this.#due(kept, service)
      // The processes that were replaced before are gone, and there is room for another one.
      const isBusy = this.#parts.operationLock.activity !== undefined || service.isChanging
      if (due === undefined || isBusy) continue
      this.#replace(kept, service, due)
      this.#turn = index + 1
    }
    this.#hasLooked = true
  }

  close(): void {
    clearInterval(this.#timer)
    this.#running?.displace()
  }

  /** The oldest process that is due. */
  #due(kept: Kept, service: ManagedService): Due | undefined {
    const now = this.#clock.now()
    let due: Due | undefined
    let oldest = Number.POSITIVE_INFINITY
    for (const number of service.numbers) {
      const process = service.instance(number)?.process
      if (process === undefined) continue
      const ready = reportedState(this.#parts.fleet.reports, process.id) === 'ready'
      const why = this.#aboveLimit(kept, number, {
        id: process.id,
        pid: process.pid,
        // At the first look, it may have been ready for long, under an earlier program or master. A look that is late says nothing about its own processes.
        readySince: !ready
          ? undefined
          : this.#hasLooked || !process.isRestored
            ? now
            : process.identity.startedAt,
      })
      const setbacks = kept.setbacks.get(number) ?? NO_SETBACKS
      const { startedAt, since } = process.identity
      if (!ready || now < setbacks.until || startedAt >= oldest) continue
      const time = this.#timeIsUp(kept, since)
      if (why !== undefined && now >= kept.pausedUntil) due = { number, reason: 'memory', why }
      else if (time !== undefined) due = { number, reason: 'schedule', why: time }
      else continue
      oldest = startedAt
    }
    return due
  }

  /** @returns why it is to be replaced */
  #aboveLimit(
    { config, observed, setbacks }: Kept,
    number: number,
    { id, pid, readySince }: { id: string; pid: number | undefined; readySince: number | undefined },
  ): string | undefined {
    const { name, maxMemory } = config
    if (maxMemory === null) return undefined
    const now = this.#clock.now()
    const bytes = this.#memoryOf(id, pid)
    const above = bytes > maxMemory
    const before = observed.get(number)
    const after = look(before, { id, readySince, above, now })
    observed.set(number, after)
    if (after.aboveAt === now) {
      const facts = { service: name, instance: `${name}.${number}`, backend: id, bytes, maxMemory }
      if (isEarly(after)) {
        const next = setBack(setbacks.get(number) ?? NO_SETBACKS, now)
        setbacks.set(number, next)
        const detail = `${name}.${number} has ${formatSize(bytes)}, maxMemory is ${formatSize(maxMemory)}`
        const error = new BrokerError('BATON_ERR_MEMORY_LIMIT', detail)
        const pauseMs = next.until - now
        this.#parts.logger.error({ ...facts, code: error.code, pauseMs }, error.message)
        this.#announce(name, 'memory', `${error.message}; next attempt in ${formatDuration(pauseMs)}`)
      } else setbacks.delete(number)
    }
    return above ? `${formatSize(bytes)}, maxMemory is ${formatSize(maxMemory)}` : undefined
  }

  /** The most that one of its processes has: the one that Baton started, or one below it that has registered. */
  #memoryOf(id: string, pid: number | undefined): number {
    const { fleet, memoryOf = residentBytes } = this.#parts
    const registered = fleet.reports.filter((report) => report.id === id || report.owner === id)
    const pids = new Set([...(pid === undefined ? [] : [pid]), ...registered.map((report) => report.pid)])
    return Math.max(0, ...[...pids].map((each) => memoryOf(each) ?? 0))
  }

  /** @param since when the process was started, in ms since the Unix epoch */
  #timeIsUp({ config, cron }: Kept, since: number): string | undefined {
    const { restartEvery } = config
    if (restartEvery === null) return undefined
    const at = typeof restartEvery === 'number' ? since + restartEvery : cron?.after(since)
    if (at === undefined || this.#clock.date() < at) return undefined
    const every = typeof restartEvery === 'number' ? formatDuration(restartEvery) : restartEvery
    return `restartEvery is ${every}`
  }

  #replace(kept: Kept, service: ManagedService, { number, reason, why }: Due): void {
    const { fleet, operationLock, logger, counters } = this.#parts
    const { name, minHealthy } = kept.config
    const instance = `${name}.${number}`
    const facts = { service: name, instance, reason }
    logger.info({ ...facts, why }, 'replacing a backend process')
    this.#announce(name, reason, `${instance} is being replaced: ${why}`)
    operationLock.begin('replacement', () => this.#running?.displace())
    this.#running = new Replacement(fleet, service, { number, minHealthy }, this.#clock, (outcome) => {
      this.#running = undefined
      const now = this.#clock.now()
      if (outcome.kind === 'replaced') {
        counters.replaced(name, reason, 'success')
        if (reason === 'memory') kept.pausedUntil = now + MIN_PAUSE_MS
        const { backend, pid: peerPid } = outcome
        logger.info({ ...facts, backend, peerPid }, 'backend process replaced')
        this.#announce(name, reason, `${instance} was replaced`)
      } else if (outcome.kind === 'failed') {
        counters.replaced(name, reason, 'failure')
        const next = setBack(kept.setbacks.get(number) ?? NO_SETBACKS, now)
        kept.setbacks.set(number, next)
        const { problem, output } = outcome
        const error = new BrokerError('BATON_ERR_NOT_REPLACED', `${instance} ${problem}`)
        const pauseMs = next.until - now
        logger.error({ ...facts, code: error.code, output, pauseMs }, error.message)
        this.#announce(name, reason, `${error.message}; next attempt in ${formatDuration(pauseMs)}`)
      }
      operationLock.end('replacement')
    })
  }

  #announce(service: string, reason: ReplacementReason, text: string): void {
    this.#parts.workerPool.reportChange({ kind: 'replace', service, reason, text })
  }
}
