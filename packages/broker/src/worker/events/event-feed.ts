import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import { BackendChanges, type WatchedService } from './backend-changes.ts'
import type { Change } from '../../api/events.ts'
import { type Counted, Rates } from './rates.ts'

/** Maximum streams (status pages, `baton top`). More suggest a program that does not close them. */
export const MAX_STREAMS = 64
/** Unsent bytes after which a stream is cut off. */
const MAX_UNSENT_BYTES = 1024 * 1024

const STATUS_INTERVAL_MS = 1000
const SAMPLE_INTERVAL_MS = 100
/** Status events from one keep-alive comment to the next: 15 seconds. */
const KEEP_ALIVE = 15

/** The data that the feed reports. */
export interface EventSource {
  /** As `GET /api/v1/status` answers, without routes and limits. */
  status(): { readonly services: readonly WatchedService[] }
  /** Counts since the start, by service. */
  counted(): Counted[]
}

/** One stream. */
export interface EventSink {
  write(text: string): void
  /** Bytes written and not sent yet. */
  readonly waiting: number
  end(): void
  /** Ends the stream immediately; discards unsent bytes. */
  cut(): void
}

/**
 * Sends server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the status each second, and changes when
 * they happen. Does nothing while no stream is open, and never waits for a client.
 */
export class EventFeed {
  readonly #source: EventSource
  readonly #clock: Clock
  /** Prefix of event ids, different for each worker. */
  readonly #prefix: string
  readonly #sinks = new Set<EventSink>()
  readonly #rates = new Rates()
  readonly #changes = new BackendChanges()
  #statusTimer: Timer | undefined
  #sampleTimer: Timer | undefined
  #ticks = 0
  #events = 0
  #closed = false

  constructor(source: EventSource, clock: Clock, prefix: string) {
    this.#source = source
    this.#clock = clock
    this.#prefix = prefix
  }

  get closed(): boolean {
    return this.#closed
  }

  get streams(): number {
    return this.#sinks.size
  }

  /** Whether another stream may be opened. */
  get room(): boolean {
    return !this.#closed && this.#sinks.size < MAX_STREAMS
  }

  /**
   * Opens a stream, which starts with the status. From now on the feed ends `sink`.
   *
   * @returns to be called when the client has gone
   */
  open(sink: EventSink): () => void {
    if (this.#sinks.size === 0) this.#begin()
    this.#sinks.add(sink)
    this.#send([sink], this.#event('status', this.#status()))
    return () => this.#remove(sink)
  }

  /** Takes a sample now, and announces what has changed. */
  sample(): void {
    if (this.#sinks.size === 0) return
    for (const change of this.#changes.compare(this.#source.status().services)) this.announce(change)
  }

  announce(change: Change): void {
    if (this.#sinks.size === 0) return
    this.#send(this.#sinks, this.#event('change', { at: new Date().toISOString(), ...change }))
  }

  /** Ends every stream, for good. @param isLast nothing changes any more: each stream gets the last status before its end */
  close(isLast = false): void {
    if (isLast && this.#sinks.size > 0) this.#send(this.#sinks, this.#event('status', this.#status()))
    this.#closed = true
    for (const sink of this.#sinks) sink.end()
    this.#sinks.clear()
    this.#stopTimers()
  }

  #begin(): void {
    this.#rates.begin(this.#clock.now(), this.#source.counted())
    this.#changes.begin(this.#source.status().services)
    this.#statusTimer = this.#clock.setInterval(() => this.#tick(), STATUS_INTERVAL_MS)
    this.#sampleTimer = this.#clock.setInterval(() => this.sample(), SAMPLE_INTERVAL_MS)
  }

  #stopTimers(): void {
    this.#clock.clear(this.#statusTimer)
    this.#clock.clear(this.#sampleTimer)
  }

  #tick(): void {
    this.#ticks += 1
    this.#rates.add(this.#clock.now(), this.#source.counted())
    const keepAlive = this.#ticks % KEEP_ALIVE === 0 ? ': keep-alive\n\n' : ''
    this.#send(this.#sinks, `${keepAlive}${this.#event('status', this.#status())}`)
  }

  #status(): object {
    return { at: new Date().toISOString(), status: this.#source.status(), services: this.#rates.current }
  }

  /** JSON.stringify emits no line breaks, so the data is one line. */
  #event(name: string, data: object): string {
    this.#events += 1
    return `id: ${this.#prefix}/${this.#events}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`
  }

  #send(sinks: Iterable<EventSink>, text: string): void {
    for (const sink of sinks) {
      if (sink.waiting <= MAX_UNSENT_BYTES) sink.write(text)
      else {
        this.#remove(sink)
        sink.cut()
      }
    }
  }

  #remove(sink: EventSink): void {
    if (this.#sinks.delete(sink) && this.#sinks.size === 0) this.#stopTimers()
  }
}
