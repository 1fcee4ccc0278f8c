import http from 'node:http'
import type { Test } from 'tap'
import { LIMIT } from './limits.ts'

/** New connections at a steady rate, each with one request, whatever happens to earlier ones. Nothing is retried. */
export class PacedClients {
  answers = 0
  readonly failures: string[] = []
  readonly #port: number
  readonly #timer: NodeJS.Timeout
  #open = 0
  #due: number
  #last = performance.now()

  constructor(t: Test, port: number, perSecond: number) {
    this.#port = port
    this.#due = 0
    this.#timer = setInterval(() => {
      const now = performance.now()
      this.#due += ((now - this.#last) * perSecond) / 1000
      this.#last = now
      for (; this.#due >= 1; this.#due -= 1) this.#visit()
    }, 10)
    t.teardown(() => clearInterval(this.#timer))
  }

  /** Starts no more clients; resolves once every response has arrived. */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    while (this.#open > 0) await new Promise((resolve) => setTimeout(resolve, 10))
  }

  #visit(): void {
    this.#open += 1
    const done = (failure?: string) => {
      this.#open -= 1
      if (failure === undefined) this.answers += 1
      else this.failures.push(failure)
    }
    const options = { host: '127.0.0.1', port: this.#port, agent: false, timeout: LIMIT }
    const request = http.get(options, (response) => {
      response.on('end', () =>
        done(response.statusCode === 200 ? undefined : `status ${response.statusCode}`),
      )
      response.on('error', (error) => done(error.message))
      response.resume()
    })
    request.on('timeout', () => request.destroy(new Error('timeout')))
    request.on('error', (error) => done(error.message))
  }
}
