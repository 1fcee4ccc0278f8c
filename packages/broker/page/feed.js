import { ApiError, get, open } from './api.js'
import { EventParser } from './event-parser.js'

/** @import { Change, FeedState, Sample, Status } from './shapes.d.ts' */

/** An event comes each second. After so many without one the stream is as good as gone, whatever TCP thinks of it. */
const SILENCE_MS = 5000
/** Between two questions for the status, where no stream is to be had. */
const POLL_MS = 2000
/**
 * How long to be content with questions before the stream is tried again: at first soon, as a worker that ends refuses
 * streams as well.
 */
const FIRST_POLL_MS = 2000
const LONGEST_POLL_MS = 30_000
const FIRST_PAUSE_MS = 250
const LONGEST_PAUSE_MS = 2000

/**
 * @typedef {object} Listener
 * @property {(sample: Sample) => void} onSample
 * @property {(change: Change) => void} onChange
 * @property {(state: FeedState) => void} onState
 */

/** There is an answer, and it is no stream of events that comes through. */
class NoStream extends Error {}

/**
 * Keeps the page supplied: from the stream of events; where there is none, or something on the way holds it back, by
 * asking for the status. It goes on trying until `stop`; without a valid token it stops by itself (`locked`).
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
        // It ends when the broker reloads: the next worker is there already.
        await this.#listen(signal)
        pause = FIRST_PAUSE_MS
        poll = FIRST_POLL_MS
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof NoStream) {
          pause = FIRST_PAUSE_MS
          const answered = await this.#poll(signal, poll)
          poll = Math.min(poll * 2, LONGEST_POLL_MS)
          if (answered) continue
        }
        if (error instanceof ApiError && error.status === 401) return this.#listener.onState('locked')
        if (signal.aborted) return
        this.#listener.onState('lost')
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS)
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
      // Nothing came although the broker answered, or does not answer at all: asking for the status tells which.
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
   * @param {number} time milliseconds
   * @returns {Promise<boolean>} whether the broker answered to the end
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
