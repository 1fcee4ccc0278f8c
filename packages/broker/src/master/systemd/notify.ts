import { NativeError, sendDatagram } from '@baton/native-sendmsg'
import type { Logger } from 'pino'

const VARIABLES = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'FDSTORE'] as const

/** Longest delay of a Node timer. */
const MAX_INTERVAL_MS = 2 ** 31 - 1

/** Delay before the next attempt when the manager's queue is full, in ms. */
const RETRY_DELAY_MS = 50

/** How often a draining broker requests more time, and how much, in ms. */
const EXTEND_INTERVAL_MS = 5000
const EXTENSION_MS = 15_000

/**
 * Reports the broker's state to the service manager (sd_notify(3)), and keeps its watchdog from firing. Does nothing without a
 * service manager. One that cannot be reached is logged once and otherwise ignored.
 */
export class Notifier {
  /** Variables that the next program needs at exec. No other process may have them. */
  readonly environment: Readonly<NodeJS.ProcessEnv>
  /** Its path, or `@name`; undefined without a service manager. */
  readonly socket: string | undefined
  /** How many descriptors the manager keeps for this service; undefined if it does not say (systemd before 254). */
  readonly storeLimit: number | undefined
  readonly #logger: Logger
  readonly #interval: number | undefined
  readonly #waiting: string[] = []
  #retry: NodeJS.Timeout | undefined
  #watchdog: NodeJS.Timeout | undefined
  #extending: NodeJS.Timeout | undefined
  #pulse: Pulse | undefined
  #failed = false

  /** Removes the variables from `environment`, so that no child notifies in this process's name. */
  static take(environment: NodeJS.ProcessEnv, logger: Logger): Notifier {
    const taken: NodeJS.ProcessEnv = {}
    for (const name of VARIABLES) {
      if (environment[name] !== undefined) taken[name] = environment[name]
      delete environment[name]
    }
    return new Notifier(taken, logger)
  }

  private constructor(environment: NodeJS.ProcessEnv, logger: Logger) {
    const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, FDSTORE } = environment
    this.environment = environment
    this.#logger = logger
    this.socket = NOTIFY_SOCKET === '' ? undefined : NOTIFY_SOCKET
    this.storeLimit = FDSTORE === undefined ? undefined : Number(FDSTORE)
    const microseconds = Number(WATCHDOG_USEC)
    const ours = WATCHDOG_PID === undefined || Number(WATCHDOG_PID) === process.pid
    // Half of the time, as sd_watchdog_enabled(3) recommends.
    if (ours && microseconds > 0) this.#interval = Math.min(microseconds / 1000 / 2, MAX_INTERVAL_MS)
  }

  /** The broker is serving: after the start, and after each reload, successful or not, because systemd waits for it. */
  ready(status: string): void {
    this.#notify('READY=1', `STATUS=${firstLine(status)}`, `MAINPID=${process.pid}`)
    this.watch()
  }

  /** A `ready` must follow. systemd matches this to its own request by the time: CLOCK_MONOTONIC, in microseconds. */
  reloading(): void {
    const now = process.hrtime.bigint() / 1000n
    this.#notify('RELOADING=1', `MONOTONIC_USEC=${now}`, 'STATUS=reloading')
  }

  /** The broker stops within `deadline` ms, and requests extensions only until then. */
  stopping(deadline: number): void {
    this.#notify('STOPPING=1', 'STATUS=draining')
    // The stop has its own time limit, and a worker that has finished no longer reports.
    clearInterval(this.#watchdog)
    const end = performance.now() + deadline
    const extend = () => {
      this.#notify(`EXTEND_TIMEOUT_USEC=${EXTENSION_MS * 1000}`)
      if (performance.now() + EXTEND_INTERVAL_MS > end) clearInterval(this.#extending)
    }
    this.#extending = setInterval(extend, EXTEND_INTERVAL_MS).unref()
    extend()
  }

  /** Starts notifying the watchdog, if there is one. Called by `ready`, and right after exec. */
  watch(): void {
    if (this.#interval === undefined || this.#pulse !== undefined) return
    const pulse = new Pulse(performance.now())
    this.#pulse = pulse
    this.#live()
    const tick = () => {
      if (pulse.due(performance.now())) this.#live()
    }
    this.#watchdog = setInterval(tick, this.#interval).unref()
  }

  /** The serving worker has sent a message. */
  workerAnswered(): void {
    if (this.#pulse?.beat(performance.now()) === true) this.#live()
  }

  close(): void {
    clearTimeout(this.#retry)
    clearInterval(this.#watchdog)
    clearInterval(this.#extending)
  }

  /** Not queued behind other messages: the next one will do. */
  #live(): void {
    if (this.#waiting.length === 0) this.#notify('WATCHDOG=1')
  }

  #notify(...lines: string[]): void {
    if (this.socket === undefined) return
    this.#waiting.push(lines.join('\n'))
    if (this.#waiting.length === 1) this.#flush(this.socket)
  }

  /** Sends queued messages in order. */
  #flush(socket: string): void {
    try {
      for (let [first] = this.#waiting; first !== undefined; [first] = this.#waiting) {
        sendDatagram(socket, Buffer.from(first))
        this.#waiting.shift()
      }
    } catch (error) {
      if (error instanceof NativeError && error.code === 'EAGAIN') {
        this.#retry = setTimeout(() => this.#flush(socket), RETRY_DELAY_MS).unref()
        return
      }
      this.#waiting.length = 0
      if (!this.#failed) this.#logger.warn({ err: error, socket }, 'cannot notify the service manager')
      this.#failed = true
    }
  }
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0] ?? ''
}

/** Workers report once a second. One that has not for this long, in ms, is stuck. */
const SILENCE_TIMEOUT_MS = 3000

/**
 * Decides when to notify the watchdog: only while the serving worker reports, because a master alone is not a working broker.
 * All times are in ms on one monotonic clock.
 */
export class Pulse {
  #reportedAt: number
  #owed = false

  /** @param now counts as the first report: a worker that has just started has not sent one */
  constructor(now: number) {
    this.#reportedAt = now
  }

  /** The interval has passed. Returns whether to notify the watchdog. */
  due(now: number): boolean {
    this.#owed = now - this.#reportedAt > SILENCE_TIMEOUT_MS
    return !this.#owed
  }

  /** The worker has reported. Returns whether to send the notification that was withheld. */
  beat(now: number): boolean {
    const owed = this.#owed
    this.#reportedAt = now
    this.#owed = false
    return owed
  }
}
