import { unstartableBy } from '../../supervise/startable.ts'
import { FAILED, CommandError } from '../../exit-codes.ts'
import { isSameFile } from '../../log/sink.ts'
import { formatDuration } from '../../config/duration.ts'
import { type BackendReport, fleetClock, type ManagedProcess, type ProcessExit } from '../fleet/index.ts'
import type { InstanceStatus } from '../../api/master-status.ts'
import {
  countStart,
  hasFailedTooOften,
  MAX_FAILED_STARTS,
  NO_STARTS,
  type StartHistory,
} from './start-history.ts'

/** An app that has not listened by then may do so later, or never: milliseconds. */
const LISTEN_TIMEOUT_MS = 10_000

/** Lines of an app that did not start, which tell why. */
const LAST_LINES = 20

export interface StartWatchHost {
  /** For how long an app must be registered to have started, in milliseconds. */
  minHealthy(): number
  statuses(): readonly InstanceStatus[]
  /** Ports that the app has asked for. */
  ports(): readonly string[]
  warn(instance: string, text: string): void
  /** The app is given up. */
  giveUp(error: CommandError): void
}

/**
 * Watches under `baton run` whether the app starts: gives it up when it does not, and says once that it has not listened yet.
 *
 * Owner of the row of failed starts.
 */
export class StartWatch {
  readonly #host: StartWatchHost
  /** `limited`: an app that fails again and again is given up. `first`: only before it has served. */
  readonly #policy: 'limited' | 'first' | 'always'
  /** When each backend began to be ready, and when it was so last; milliseconds. */
  readonly #ready = new Map<string, { readonly since: number; until: number | undefined }>()
  #history: StartHistory
  #listened = false
  #timer: NodeJS.Timeout | undefined

  constructor(
    policy: 'limited' | 'first' | 'always',
    history: StartHistory = NO_STARTS,
    host: StartWatchHost,
  ) {
    this.#policy = policy
    this.#history = history
    this.#host = host
  }

  get history(): StartHistory {
    return this.#history
  }

  /** The processes were started. */
  begin(): void {
    this.#remind(LISTEN_TIMEOUT_MS)
  }

  end(): void {
    clearTimeout(this.#timer)
  }

  /** What the workers list. */
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

  /** The process of an instance has ended by itself, or was never started. */
  exited({ id, identity, output }: ManagedProcess, exit: ProcessExit): void {
    const now = fleetClock.now()
    const wanted = this.#host.minHealthy()
    const served = [...this.#ready.values()].some(({ since, until = now }) => until - since >= wanted)
    const own = this.#ready.get(id)
    const listened = own !== undefined
    this.#ready.delete(id)
    if (served) this.#history = countStart(this.#history, { kind: 'served' })
    // Those that have gone have told what they had to.
    for (const [each, { until }] of this.#ready) if (until !== undefined) this.#ready.delete(each)
    if (served) return
    this.#history = countStart(this.#history, { kind: 'failed', instance: identity.instance })
    if (this.#policy === 'always' || (this.#policy === 'first' && this.#history.served)) return
    const [program = ''] = identity.generation.definition.command
    if (exit.error !== undefined && !this.#history.served) {
      const { code, reason } = unstartableBy(program, exit.errno)
      return this.#host.giveUp(new CommandError(reason, { exitCode: code, code: 'BATON_ERR_NOT_STARTABLE' }))
    }
    const instances = this.#host.statuses().map(({ instance }) => instance)
    if (!hasFailedTooOften(this.#history, instances)) return
    const command = identity.generation.definition.command.join(' ')
    const when = listened
      ? `within ${formatDuration(wanted)} of listening`
      : 'without having listened on a port'
    // Where standard error goes to the same place as the log, they have just been printed.
    const shown = isSameFile(1, 2)
    const lines = shown ? [] : output.slice(-LAST_LINES)
    this.#host.giveUp(
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

  #remind(delay: number): void {
    this.#timer = setTimeout(() => this.#check(), delay)
    this.#timer.unref()
  }

  #check(): void {
    if (this.#listened) return
    const now = Date.now()
    const running = this.#host.statuses().filter(({ pid, state }) => pid !== null && state === 'running')
    const [oldest] = running.toSorted((one, other) => Date.parse(one.since) - Date.parse(other.since))
    // Between two starts, or soon after one.
    if (oldest === undefined) return this.#remind(LISTEN_TIMEOUT_MS / 10)
    const age = now - Date.parse(oldest.since)
    if (age < LISTEN_TIMEOUT_MS) return this.#remind(LISTEN_TIMEOUT_MS - age)
    const ports = this.#host.ports()
    this.#host.warn(
      oldest.instance,
      `has not listened after ${formatDuration(LISTEN_TIMEOUT_MS)}${
        ports.length === 0
          ? ': Baton serves the ports that a Node app listens on by number, and until it does there is nothing to connect to'
          : `: it has asked for port ${ports.join(', ')} and is not ready yet`
      }`,
    )
  }
}

function howItEnded({ code, signal, error }: ProcessExit): string {
  if (error !== undefined) return error
  return signal === null ? `exit code ${code}` : signal
}
