import { isOutdated } from './trial.ts'
import { type BackendReport, reportedState } from '../fleet/backend-report.ts'

/** The work of a backend since it registered. Counts begin again when a worker is replaced. */
type Tally = NonNullable<BackendReport['tally']>

const NOTHING: Tally = { adopted: 0, failures: 0, checks: 0, failedChecks: 0 }

/** How long a backend of the canary may be not ready, in ms, while the old version is: after a failure of both, it may recover a little later. */
const UNREADY_LIMIT_MS = 3000

/** Failures that are not counted as worse: a single one of each process, and this share of all. */
const TOLERANCE = { failures: 1, share: 0.01 }

type Counts = { -readonly [Key in keyof Tally]: Tally[Key] }

/**
 * Compares the backends of a canary with those of the old version, by what workers report. No I/O.
 *
 * A canary is worse if one of its backends is not ready for `UNREADY_LIMIT_MS` while a backend of the old version is; or if more of its health checks, or of the connections offered to it, have failed, in proportion, than of the old version's.
 */
export class Canary {
  readonly #service: string
  readonly #ids: readonly string[]
  readonly #version: string
  readonly #last = new Map<string, Tally>()
  /** Since the canary began. */
  readonly #sums: Record<'new' | 'old', Counts> = { new: { ...NOTHING }, old: { ...NOTHING } }
  #unreadySince: number | undefined
  /** Time of the last report of the serving worker. */
  #seenAt = Number.NEGATIVE_INFINITY
  /** Reported last, for each of its processes. */
  #states: readonly (string | undefined)[] = []

  /** @param ids of its processes */
  constructor(service: string, ids: readonly string[], version: string) {
    this.#service = service
    this.#ids = ids
    this.#version = version
  }

  /**
   * @param fresh see `FleetObserver`
   * @returns why it is worse than the old version; undefined while it is not
   */
  reported(reports: readonly BackendReport[], now: number, fresh: boolean): string | undefined {
    if (fresh) this.#seenAt = now
    const own = reports.filter(({ service, state }) => service === this.#service && state !== 'draining')
    const isNew = ({ id, owner }: BackendReport) => this.#ids.includes(owner ?? id)
    const canary = own.filter(isNew)
    const old = own.filter((report) => !isNew(report))
    this.#states = this.#ids.map((id) => reportedState(reports, id))
    this.#add('new', canary)
    this.#add('old', old)
    const stranger = canary.find(({ version }) => version !== this.#version)
    if (stranger !== undefined)
      return `reports ${stranger.version ?? 'no version'}: its app must take the version from BATON_VERSION`
    const isOldReady = old.some(({ state }) => state === 'ready')
    return this.#unready(isOldReady, now) ?? worse(this.#sums.new, this.#sums.old, this.#ids.length)
  }

  /** Whether all of its backends are ready now. */
  isReadyAt(now: number): boolean {
    return this.#isReady && !isOutdated(this.#seenAt, now)
  }

  /** According to the last report. */
  get #isReady(): boolean {
    return this.#states.length > 0 && this.#states.every((state) => state === 'ready')
  }

  /** For people. */
  get summary(): string {
    const { adopted, failures, checks, failedChecks } = this.#sums.new
    const checked = checks > 0 ? `, ${failedChecks} of ${checks} health checks failed` : ''
    // Its process and its health checks were compared, nothing else: that must not read like a success under load.
    if (adopted + failures === 0) return `it got no connections${checked}`
    return `${adopted} connections, ${failures} failures${checked}`
  }

  #unready(isOldReady: boolean, now: number): string | undefined {
    if (!isOldReady || this.#isReady) {
      this.#unreadySince = undefined
      return undefined
    }
    this.#unreadySince ??= now
    if (now - this.#unreadySince < UNREADY_LIMIT_MS) return undefined
    return `is not ready (${this.#states.find((state) => state !== 'ready') ?? 'not registered'})`
  }

  /** Adds what has happened since the last report. */
  #add(side: 'new' | 'old', backends: readonly BackendReport[]): void {
    const sum = this.#sums[side]
    for (const { id, tally } of backends) {
      if (tally === undefined) continue
      const last = this.#last.get(id)
      this.#last.set(id, tally)
      // The first report is where the comparison begins.
      if (last === undefined) continue
      const isReset = KEYS.some((key) => tally[key] < last[key])
      for (const key of KEYS) sum[key] += tally[key] - (isReset ? 0 : last[key])
    }
  }
}

const KEYS = ['adopted', 'failures', 'checks', 'failedChecks'] as const

/** @param processes of the canary */
function worse(canary: Tally, old: Tally, processes: number): string | undefined {
  const checks = { failed: canary.failedChecks, all: canary.checks }
  const oldChecks = { failed: old.failedChecks, all: old.checks }
  if (isWorse(checks, oldChecks, processes)) return `failed ${compared(checks, oldChecks, 'health checks')}`
  const offers = { failed: canary.failures, all: canary.adopted + canary.failures }
  const oldOffers = { failed: old.failures, all: old.adopted + old.failures }
  return isWorse(offers, oldOffers, processes)
    ? `failed ${compared(offers, oldOffers, 'handoffs')}`
    : undefined
}

interface Failed {
  readonly failed: number
  readonly all: number
}

function isWorse(canary: Failed, old: Failed, processes: number): boolean {
  const expected = old.all === 0 ? 0 : (old.failed / old.all) * canary.all
  return canary.failed > expected + TOLERANCE.failures * processes + TOLERANCE.share * canary.all
}

function compared(canary: Failed, old: Failed, what: string): string {
  return `${canary.failed} of ${canary.all} ${what} (the old version ${old.failed} of ${old.all})`
}
