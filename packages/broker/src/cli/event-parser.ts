/** One server-sent event that has data. */
export interface ServerSentEvent {
  /** `message` where the stream names none. */
  readonly event: string
  readonly data: string
}

/**
 * Server-sent events out of a text that comes in pieces (https://html.spec.whatwg.org/#parsing-an-event-stream). A reader that
 * connects anew asks for nothing that it missed, so `id` and `retry` are passed over, as comments and unknown fields are.
 */
export class EventParser {
  #rest = ''
  #event = ''
  #data: string[] = []
  #begun = false

  /** @returns the events that are whole with this piece */
  push(piece: string): ServerSentEvent[] {
    this.#rest += piece
    if (!this.#begun && this.#rest !== '') {
      this.#begun = true
      if (this.#rest.startsWith('\uFEFF')) this.#rest = this.#rest.slice(1)
    }
    const events: ServerSentEvent[] = []
    // A CR at the end may be the first half of a CRLF.
    const end = /\r\n|\n|\r(?!$)/g
    let from = 0
    for (let match = end.exec(this.#rest); match !== null; match = end.exec(this.#rest)) {
      const event = this.#line(this.#rest.slice(from, match.index))
      if (event !== undefined) events.push(event)
      from = end.lastIndex
    }
    this.#rest = this.#rest.slice(from)
    return events
  }

  #line(line: string): ServerSentEvent | undefined {
    if (line === '') return this.#dispatch()
    const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? []
    if (field === 'event') this.#event = value
    if (field === 'data') this.#data.push(value)
    return undefined
  }

  #dispatch(): ServerSentEvent | undefined {
    const event = { event: this.#event === '' ? 'message' : this.#event, data: this.#data.join('\n') }
    const hasData = this.#data.length > 0
    this.#event = ''
    this.#data = []
    return hasData ? event : undefined
  }
}
