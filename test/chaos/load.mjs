import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const program = join(import.meta.dirname, 'programs/load.mjs')

/** The process of the clients, which begin at once. */
export class Load {
  /** How many they are. */
  clients = 0
  failures = []
  /** Rejects when the process ends otherwise than by `end`. */
  failed
  #child
  #done
  #answersPath
  /** For the clients to end, in milliseconds; longer than a client's own patience. */
  #longestEnd

  /** @param patience of a client, in milliseconds */
  constructor(folder, parameters, environment, patience) {
    this.#longestEnd = patience * 1.5
    this.#answersPath = join(folder, 'answers')
    const argument = JSON.stringify({ ...parameters, answersPath: this.#answersPath })
    this.#child = fork(program, [argument], {
      env: { ...environment, CHAOS_ANSWER_TIMEOUT_MS: String(patience) },
    })
    this.#done = new Promise((resolve) => {
      this.#child.on('message', ({ failure, done, clients }) => {
        if (failure !== undefined) this.failures.push(failure)
        else if (done !== undefined) resolve(done)
        else this.clients = clients
      })
    })
    this.failed = once(this.#child, 'exit').then(([code, signal]) => {
      if (code !== 0) throw new Error(`the clients' process ended with ${code ?? signal}`)
    })
    // Whoever waits for something races it; in between nobody does.
    this.failed.catch(() => {})
  }

  /** No new requests; resolves with the clients' counts when each has heard the end of its last one. */
  async end() {
    this.#child.send('stop')
    const timeout = new AbortController()
    const late = pause(this.#longestEnd, undefined, { signal: timeout.signal }).then(
      () => {
        throw new Error(`clients still wait after ${this.#longestEnd} ms`)
      },
      () => undefined,
    )
    try {
      return await Promise.race([this.#done, late, this.failed.then(() => this.#done)])
    } finally {
      timeout.abort()
    }
  }

  /** After `end`: the instance that answered, by request id; 0 where nobody did. */
  answers() {
    const file = readFileSync(this.#answersPath)
    return new Uint16Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.length))
  }

  kill() {
    this.#child.kill('SIGKILL')
  }
}
