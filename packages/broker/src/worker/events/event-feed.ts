import type { Clock, Timer } from '@baton/backend-sdk/protocol'
import { BackendChanges, type WatchedService } from './backend-changes.ts'
import type { Change } from '../../api/events.ts'
import { type Counted, Rates } from './rates.ts'

/** Who listens: a page, a `baton top`. More of them than that is a program that forgets to close. */
export const MAX_STREAMS = 64
/** Bytes that a listener may let wait before it is cut off. */
const MAX_UNSENT_BYTES = 1024 * 1024

/** Milliseconds. */
const STATUS_INTERVAL_MS = 1000
const SAMPLE_INTERVAL_MS = 100
/** In status events: every 15 seconds. */
const KEEP_ALIVE = 15

/** What the feed tells of. */
export interface EventSource {
  /** As `GET /api/v1/status` answers. */
  status(): { readonly services: readonly WatchedService[] }
  /** Counts since the start, by service. */
  counted(): Counted[]
}

/** One listener. */
export interface EventSink {
  write(text: string): void
  /** Bytes that were written and not taken yet. */
  readonly waiting: number
  end(): void
  /** At once, with what waits. */
  cut(): void
}

/**
 * Tells what goes on, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the status
 * each second, changes when they happen. Works only while somebody listens, and never waits for a listener.
 */
export class EventFeed {
  readonly #source: EventSource
  readonly #clock: Clock
  /** The beginning of each event's id: another worker's events are others. */
  readonly #prefix: string
  readonly #sinks = new Set<EventSink>()
  readonly #rates = new Rates()
  readonly #changes = new BackendChanges()
  #statusTimer: Timer | undefined
  #lookTimer: Timer | undefined
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

  /** Whether one more may listen. */
  get room(): boolean {
    return !this.#closed && this.#sinks.size < MAX_STREAMS
  }

  /**
   * Begins with the status. `sink` is the feed's to end from now on.
   *
   * @returns to be called when the listener has gone
   */
  open(sink: EventSink): () => void {
    if (this.#sinks.size === 0) this.#begin()
    this.#sinks.add(sink)
    this.#send([sink], this.#event('status', this.#status()))
    return () => this.#remove(sink)
  }

  /** Something may have changed: looks now. */
  sample(): void {
    if (this.#sinks.size === 0) return
    for (const change of this.#changes.compare(this.#source.status().services)) this.announce(change)
  }

  announce(change: Change): void {
    if (this.#sinks.size === 0) return
    this.#send(this.#sinks, this.#event('change', { at: new Date().toISOString(), ...change }))
  }

  /** Ends every stream; nobody can listen any more. */
  close(): void {
    this.#closed = true
    for (const sink of this.#sinks) sink.end()
    this.#sinks.clear()
    this.#rest()
  }

  #begin(): void {
    this.#rates.begin(this.#clock.now(), this.#source.counted())
    this.#changes.begin(this.#source.status().services)
    this.#statusTimer = this.#clock.setInterval(() => this.#tick(), STATUS_INTERVAL_MS)
    this.#lookTimer = this.#clock.setInterval(() => this.sample(), SAMPLE_INTERVAL_MS)
  }

  #rest(): void {
    this.#clock.clear(this.#statusTimer)
    this.#clock.clear(this.#lookTimer)
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

  /** JSON has no line break, so the data is one line. */
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
    if (this.#sinks.delete(sink) && this.#sinks.size === 0) this.#rest()
  }
}
