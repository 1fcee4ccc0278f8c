import type { Logger } from 'pino'
import { unstartableBy } from '../../supervise/startable.ts'
import { FAILED, CommandError } from '../../exit-codes.ts'
import { isSameFile } from '../../log/sink.ts'
import { formatDuration } from '../../config/duration.ts'
import type { BackendReport } from '../fleet/backend-report.ts'
import type { ActiveConfig } from '../active-config.ts'
import type { Fleet } from '../fleet/fleet.ts'
import { fleetClock } from '../fleet/os.ts'
import type { ManagedProcess } from '../fleet/managed-process.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import {
  countStart,
  hasFailedTooOften,
  MAX_FAILED_STARTS,
  NO_STARTS,
  type StartHistory,
} from './start-history.ts'

/** When to warn that an app has not listened yet, in ms. It may still do so. */
const LISTEN_TIMEOUT_MS = 10_000

/** How many of the last lines of a failed app are shown. */
const LAST_LINES = 20

interface StartWatchOptions {
  readonly activeConfig: ActiveConfig
  readonly fleet: Pick<Fleet, 'statuses'>
  readonly logger: Logger
}

/**
 * Watches whether the app starts under `baton run`: gives it up when it keeps failing, and warns once if it has not listened yet.
 *
 * Owner of the history of starts.
 */
export class StartWatch {
  readonly #activeConfig: ActiveConfig
  readonly #fleet: Pick<Fleet, 'statuses'>
  readonly #logger: Logger
  readonly #ports: () => readonly string[]
  readonly #giveUp: (error: CommandError) => void
  /** `limited`: give up an app that keeps failing. `first`: only before it has served. */
  readonly #policy: 'limited' | 'first' | 'always'
  /** When each backend became ready, and when it ceased to be; in ms. */
  readonly #ready = new Map<string, { readonly since: number; until: number | undefined }>()
  #history: StartHistory
  #listened = false
  #timer: NodeJS.Timeout | undefined

  /**
   * @param ports that the app has requested
   * @param giveUp called when the app is given up
   */
  constructor(
    policy: 'limited' | 'first' | 'always',
    history: StartHistory = NO_STARTS,
    { activeConfig, fleet, logger }: StartWatchOptions,
    ports: () => readonly string[],
    giveUp: (error: CommandError) => void,
  ) {
    this.#policy = policy
    this.#history = history
    this.#activeConfig = activeConfig
    this.#fleet = fleet
    this.#logger = logger
    this.#ports = ports
    this.#giveUp = giveUp
  }

  get history(): StartHistory {
    return this.#history
  }

  /** Call when the processes were started. */
  begin(): void {
    this.#remind(LISTEN_TIMEOUT_MS)
  }

  end(): void {
    clearTimeout(this.#timer)
  }

  /** All backends registered with the workers. */
  reported(reports: readonly BackendReport[]): void {
    const now = fleetClock.now()
    const ready = new Set(reports.filter(({ state }) => state === 'ready').map(({ id }) => id))
    if (reports.length > 0) this.#listened = true
    for (const [id, time] of this.#ready) if (!ready.has(id)) time.until ??= now
    for (const id of ready) {
      const time = this.#ready.get(id)
      if (time === undefined || time.until !== undefined)
        this.#ready.set(id, { since: now, until: undefined })
    }
  }

  /** The process of an instance has ended unasked, or could not be started. */
  exited({ id, identity, output }: ManagedProcess, exit: ProcessExit): void {
    const now = fleetClock.now()
    const wanted = this.#minHealthy
    const served = [...this.#ready.values()].some(({ since, until = now }) => until - since >= wanted)
    const own = this.#ready.get(id)
    const listened = own !== undefined
    this.#ready.delete(id)
    if (served) this.#history = countStart(this.#history, { kind: 'served' })
    // The ready periods that have ended are counted now.
    for (const [each, { until }] of this.#ready) if (until !== undefined) this.#ready.delete(each)
    if (served) return
    this.#history = countStart(this.#history, { kind: 'failed', instance: identity.instance })
    if (this.#policy === 'always' || (this.#policy === 'first' && this.#history.served)) return
    const [program = ''] = identity.generation.definition.command
    if (exit.error !== undefined && !this.#history.served) {
      const { code, reason } = unstartableBy(program, exit.errno)
      return this.#giveUp(new CommandError(reason, { exitCode: code, code: 'BATON_ERR_NOT_STARTABLE' }))
    }
    const instances = this.#fleet.statuses().map(({ instance }) => instance)
    if (!hasFailedTooOften(this.#history, instances)) return
    const command = identity.generation.definition.command.join(' ')
    const when = listened
      ? `within ${formatDuration(wanted)} of listening`
      : 'without having listened on a port'
    // Where standard error goes to the same place as the log, they have just been printed.
    const shown = isSameFile(1, 2)
    const lines = shown ? [] : output.slice(-LAST_LINES)
    this.#giveUp(
      new CommandError(
        [
          `${command} ended ${MAX_FAILED_STARTS} times in a row ${when} (${howItEnded(exit)}); ${
            output.length === 0 ? 'it printed nothing' : `its last lines${shown ? ' are above' : ':'}`
          }`,
          ...lines,
        ].join('\n  '),
        { exitCode: FAILED, code: 'BATON_ERR_APP_FAILED' },
      ),
    )
  }

  /** How long an app must be registered to count as started, in ms. */
  get #minHealthy(): number {
    // Of the service whose processes Baton runs. The services of the app's other ports have no processes of their own.
    const { services } = this.#activeConfig.config
    return [...services.values()].find(({ command }) => command !== null)?.minHealthy ?? 0
  }

  #remind(delay: number): void {
    this.#timer = setTimeout(() => this.#check(), delay)
    this.#timer.unref()
  }

  #check(): void {
    if (this.#listened) return
    const now = Date.now()
    const running = this.#fleet.statuses().filter(({ pid, state }) => pid !== null && state === 'running')
    const [oldest] = running.toSorted((one, other) => Date.parse(one.since) - Date.parse(other.since))
    // Between two starts, or just after one.
    if (oldest === undefined) return this.#remind(LISTEN_TIMEOUT_MS / 10)
    const age = now - Date.parse(oldest.since)
    if (age < LISTEN_TIMEOUT_MS) return this.#remind(LISTEN_TIMEOUT_MS - age)
    const ports = this.#ports()
    this.#logger.warn(
      { instance: oldest.instance },
      `has not listened after ${formatDuration(LISTEN_TIMEOUT_MS)}${
        ports.length === 0
          ? ': Baton serves the ports that a Node app listens on by number, and until then there is nothing to connect to'
          : `: it has requested port ${ports.join(', ')} and is not ready yet`
      }`,
    )
  }
}

function howItEnded({ code, signal, error }: ProcessExit): string {
  if (error !== undefined) return error
  return signal === null ? `exit code ${code}` : signal
}
