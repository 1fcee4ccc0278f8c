/**
 * Parses server-sent events from text that arrives in chunks (HTML standard, section 9.2.6). A browser's EventSource
 * cannot send an Authorization header, so the page reads the stream itself. `baton top` and `baton events` use this file too.
 */
export class EventParser {
  #rest = ''
  #event = ''
  /** @type {string[]} */
  #data = []

  /**
   * @param {string} text
   * @returns {{ event: string, data: string }[]} the events completed by `text`
   */
  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/)
    this.#rest = lines.pop() ?? ''
    return lines.map((line) => this.#take(line)).filter((event) => event !== undefined)
  }

  /** @param {string} line */
  #take(line) {
    if (line === '') return this.#dispatch()
    const [, field = '', value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) ?? []
    if (field === 'event') this.#event = value
    else if (field === 'data') this.#data.push(value)
    return undefined
  }

  #dispatch() {
    const whole = { event: this.#event || 'message', data: this.#data.join('\n') }
    const empty = this.#data.length === 0
    this.#event = ''
    this.#data = []
    return empty ? undefined : whole
  }
}
