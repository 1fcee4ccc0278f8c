import type { Logger } from 'pino'
import { type AgentAnswer, agentAnswer, type Capacity, formatAnswer } from './answer.ts'

export interface HostStateParts {
  isDraining(): boolean
  services(): Iterable<{ readonly capacity: Capacity }>
}

/** How much this host can take, in HAProxy's words. Logs when it changes from one word to another. */
export class HostState {
  readonly #parts: HostStateParts
  readonly #logger: Logger
  #last: AgentAnswer['state'] | undefined
  #frozen: readonly Capacity[] | undefined

  constructor(parts: HostStateParts, logger: Logger) {
    this.#parts = parts
    this.#logger = logger
  }

  /** The backends register with another worker from now on: says what it would have said before, until that worker answers. */
  freeze(): void {
    this.#frozen = this.#capacities
  }

  /** The other worker has failed, and the backends come back. */
  thaw(): void {
    this.#frozen = undefined
  }

  answer(): string {
    const answer = agentAnswer(this.#parts.isDraining(), this.#capacities)
    const text = formatAnswer(answer)
    if (answer.state !== this.#last) {
      const level = answer.state === 'down' ? 'warn' : 'info'
      this.#logger[level]({ answer: text.trim() }, 'agent check')
    }
    this.#last = answer.state
    return text
  }

  get #capacities(): readonly Capacity[] {
    return this.#frozen ?? [...this.#parts.services()].map(({ capacity }) => capacity)
  }
}
