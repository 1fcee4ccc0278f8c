import { NativeError, sendDatagram } from '@baton/native-sendmsg'
import type { Logger } from 'pino'

const VARIABLES = ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'] as const

/** What a timer takes. */
const MAX_INTERVAL_MS = 2 ** 31 - 1

/** The manager's queue is full, which passes when it reads: milliseconds until the next attempt. */
const RETRY_DELAY_MS = 50

/** While the broker drains: how often it asks for more time, and for how much. Milliseconds. */
const EXTEND_INTERVAL_MS = 5000
const EXTENSION_MS = 15_000

/**
 * Tells the service manager how the broker is (sd_notify(3)), and its watchdog that it lives. Without a service manager nothing
 * is told; one that cannot be reached is logged, once, and harms nothing.
 */
export class Notifier {
  /** What the program that replaces this one needs to go on. No other process is to have it. */
  readonly environment: Readonly<NodeJS.ProcessEnv>
  readonly #socket: string | undefined
  readonly #logger: Logger
  readonly #interval: number | undefined
  readonly #waiting: string[] = []
  #retry: NodeJS.Timeout | undefined
  #watchdog: NodeJS.Timeout | undefined
  #extending: NodeJS.Timeout | undefined
  #pulse: Pulse | undefined
  #failed = false

  /** Takes the variables out of `environment`: a child that believed them its own would speak in this process's name. */
  static take(environment: NodeJS.ProcessEnv, logger: Logger): Notifier {
    const taken: NodeJS.ProcessEnv = {}
    for (const name of VARIABLES) {
      if (environment[name] !== undefined) taken[name] = environment[name]
      delete environment[name]
    }
    return new Notifier(taken, logger)
  }

  private constructor(environment: NodeJS.ProcessEnv, logger: Logger) {
    const { NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID } = environment
    this.environment = environment
    this.#logger = logger
    this.#socket = NOTIFY_SOCKET === '' ? undefined : NOTIFY_SOCKET
    const microseconds = Number(WATCHDOG_USEC)
    const ours = WATCHDOG_PID === undefined || Number(WATCHDOG_PID) === process.pid
    // Half of the time, as sd_watchdog_enabled(3) recommends.
    if (ours && microseconds > 0) this.#interval = Math.min(microseconds / 1000 / 2, MAX_INTERVAL_MS)
  }

  /** It serves: after the start, and after each reload, done or failed, for which systemd waits. */
  ready(status: string): void {
    this.#notify('READY=1', `STATUS=${firstLine(status)}`, `MAINPID=${process.pid}`)
    this.watch()
  }

  /** A `ready` has to follow. systemd matches it with its own request by the time, CLOCK_MONOTONIC, in microseconds. */
  reloading(): void {
    const now = process.hrtime.bigint() / 1000n
    this.#notify('RELOADING=1', `MONOTONIC_USEC=${now}`, 'STATUS=reloading')
  }

  /** It ends within `deadline` milliseconds: for so long, and no longer, the manager is asked to wait. */
  stopping(deadline: number): void {
    this.#notify('STOPPING=1', 'STATUS=draining')
    // From here on it is the stop's own time limit that counts, and a worker that has finished is silent.
    clearInterval(this.#watchdog)
    const end = performance.now() + deadline
    const extend = () => {
      this.#notify(`EXTEND_TIMEOUT_USEC=${EXTENSION_MS * 1000}`)
      if (performance.now() + EXTEND_INTERVAL_MS > end) clearInterval(this.#extending)
    }
    this.#extending = setInterval(extend, EXTEND_INTERVAL_MS).unref()
    extend()
  }

  /** Begins to tell the watchdog, if there is one: from `ready` on, and in a program that goes on at once. */
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

  /** The worker that serves has said something. */
  workerAnswered(): void {
    if (this.#pulse?.beat(performance.now()) === true) this.#live()
  }

  close(): void {
    clearTimeout(this.#retry)
    clearInterval(this.#watchdog)
    clearInterval(this.#extending)
  }

  /** Never late: behind something that waits, the next one is as good. */
  #live(): void {
    if (this.#waiting.length === 0) this.#notify('WATCHDOG=1')
  }

  #notify(...lines: string[]): void {
    if (this.#socket === undefined) return
    this.#waiting.push(lines.join('\n'))
    if (this.#waiting.length === 1) this.#flush(this.#socket)
  }

  /** In order. */
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
      if (!this.#failed) this.#logger.warn({ err: error, socket }, 'the service manager cannot be told')
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
