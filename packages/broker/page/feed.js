import { ApiError, get, open } from './api.js'
import { EventParser } from './event-parser.js'

/** @import { Change, FeedState, Sample, Status } from './shapes.d.ts' */

/** Without an event for this long, the stream counts as lost, even if its TCP connection is open. Events come every second. */
const SILENCE_MS = 5000
/** Interval between status requests while there is no stream. */
const POLL_MS = 2000
/**
 * How long to poll before the stream is tried again. Short at first, because a worker that is exiting refuses streams
 * too.
 */
const FIRST_POLL_MS = 2000
const MAX_POLL_MS = 30_000
const FIRST_PAUSE_MS = 250
const MAX_PAUSE_MS = 2000

/**
 * @typedef {object} Listener
 * @property {(sample: Sample) => void} onSample
 * @property {(change: Change) => void} onChange
 * @property {(state: FeedState) => void} onState
 */

/** The broker may answer, but no stream of events gets through. */
class NoStream extends Error {}

/**
 * Feeds the page from the stream of events. If there is none, or a proxy buffers it, polls the status instead. Retries
 * until `stop`; without a valid token it stops by itself (`locked`).
 */
export class Feed {
  /** @type {Listener} */
  #listener
  /** @type {AbortController | undefined} */
  #running

  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener
  }

  start() {
    this.stop()
    this.#running = new AbortController()
    this.#listener.onState('connecting')
    void this.#run(this.#running.signal)
  }

  stop() {
    this.#running?.abort()
  }

  /** @param {AbortSignal} signal */
  async #run(signal) {
    let pause = FIRST_PAUSE_MS
    let poll = FIRST_POLL_MS
    while (!signal.aborted) {
      try {
        // The stream ends when the broker reloads; the next worker is already there.
        await this.#listen(signal)
        pause = FIRST_PAUSE_MS
        poll = FIRST_POLL_MS
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof NoStream) {
          pause = FIRST_PAUSE_MS
          const answered = await this.#poll(signal, poll)
          poll = Math.min(poll * 2, MAX_POLL_MS)
          if (answered) continue
        }
        if (error instanceof ApiError && error.status === 401) return this.#listener.onState('locked')
        if (signal.aborted) return
        this.#listener.onState('lost')
        pause = Math.min(pause * 2, MAX_PAUSE_MS)
      }
      await wait(pause, signal)
    }
  }

  /**
   * Resolves when the stream has ended after at least one event.
   *
   * @param {AbortSignal} signal
   */
  async #listen(signal) {
    const silent = new AbortController()
    let events = 0
    let timer = setTimeout(() => silent.abort(), SILENCE_MS)
    try {
      const answer = await open('api/v1/events', AbortSignal.any([signal, silent.signal]))
      if (answer.body === null || !answer.headers.get('content-type')?.startsWith('text/event-stream'))
        throw new NoStream()
      const parser = new EventParser()
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader()
      for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
        for (const { event, data } of parser.push(piece.value)) {
          clearTimeout(timer)
          timer = setTimeout(() => silent.abort(), SILENCE_MS)
          events += 1
          if (events === 1) this.#listener.onState('live')
          this.#dispatch(event, data)
        }
      }
    } catch (error) {
      if (error instanceof ApiError && error.status !== 401) throw new NoStream()
      // No event arrived: the stream is held back, or the broker does not answer. A status request tells which.
      if (silent.signal.aborted && events === 0) throw new NoStream()
      if (events === 0 || signal.aborted) throw error
    } finally {
      clearTimeout(timer)
      silent.abort()
    }
  }

  /**
   * @param {string} event
   * @param {string} data
   */
  #dispatch(event, data) {
    if (event === 'status') this.#listener.onSample(JSON.parse(data))
    else if (event === 'change') this.#listener.onChange(JSON.parse(data))
  }

  /**
   * @param {AbortSignal} signal
   * @param {number} time in ms
   * @returns {Promise<boolean>} false: the broker stopped answering
   */
  async #poll(signal, time) {
    const end = performance.now() + time
    while (!signal.aborted && performance.now() < end) {
      try {
        const limit = AbortSignal.any([signal, AbortSignal.timeout(SILENCE_MS)])
        /** @type {Status} */
        const status = await get('api/v1/status', limit)
        this.#listener.onState('polling')
        this.#listener.onSample({ at: new Date().toISOString(), status, services: null })
      } catch {
        return false
      }
      await wait(POLL_MS, signal)
    }
    return true
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal ends it early
 */
function wait(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => resolve(clearTimeout(timer)), { once: true })
  })
}
