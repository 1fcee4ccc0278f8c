import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'

const program = join(import.meta.dirname, 'programs/load.mjs')

/** The clients' process. The clients start immediately. */
export class Load {
  /** The number of clients. */
  clients = 0
  failures = []
  /** Rejects if the process exits other than by `end`. */
  failed
  #child
  #done
  #answersPath
  /** Milliseconds for all clients to finish; longer than a client's own timeout. */
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
    // Every wait races it; in between it may reject without a handler.
    this.failed.catch(() => {})
  }

  /** Stops new requests; resolves with the clients' counts once the last response of each has ended. */
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

  /** After `end`: the instance that answered, by request id; 0 if none did. */
  answers() {
    const file = readFileSync(this.#answersPath)
    return new Uint16Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.length))
  }

  kill() {
    this.#child.kill('SIGKILL')
  }
}
