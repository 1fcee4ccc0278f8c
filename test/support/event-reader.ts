import { Agent, type IncomingMessage, request } from 'node:http'
import type { Test } from 'tap'
import { once } from 'node:events'

/** A client of a stream whose events are numbered: checks each number, and counts greetings and connections. */
export class EventReader {
  readonly problems: string[] = []
  readonly ports = new Set<number>()
  greetings = 0
  events = 0
  /** Number of the last event. */
  last: number | undefined
  response: IncomingMessage | undefined
  ended = false
  aborted = false
  readonly #port: number
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  #text = ''

  constructor(t: Test, port: number) {
    this.#port = port
    t.teardown(() => this.#agent.destroy())
  }

  /** @returns once the head of the answer has come */
  async open(path = '/events', headers: Record<string, string> = {}): Promise<this> {
    const response = await this.#request(path, headers)
    this.response = response
    this.ended = false
    response.setEncoding('utf8')
    response.on('data', (text: string) => this.#read(text))
    response.on('end', () => (this.ended = true))
    response.on('error', () => (this.aborted = true))
    return this
  }

  /** An ordinary request, behind the stream on the same connection. */
  async text(path: string): Promise<string> {
    const response = await this.#request(path, {})
    let text = ''
    for await (const chunk of response.setEncoding('utf8')) text += chunk
    return text
  }

  async #request(path: string, headers: Record<string, string>): Promise<IncomingMessage> {
    const asked = request({ port: this.#port, host: '127.0.0.1', path, headers, agent: this.#agent }).end()
    const [response] = (await once(asked, 'response')) as [IncomingMessage]
    this.ports.add(response.socket.localPort ?? 0)
    return response
  }

  #read(text: string): void {
    this.#text += text
    const blocks = this.#text.split('\n\n')
    this.#text = blocks.pop() ?? ''
    for (const block of blocks) this.#event(block)
  }

  #event(block: string): void {
    const greeting = /^event: hello\ndata: (\d+)$/.exec(block)
    if (greeting !== null) {
      this.greetings += 1
      this.last = Number(greeting[1])
      return
    }
    const [, id, data = ''] = /^id: (\d+)\ndata: (x*)$/.exec(block) ?? []
    const number = Number(id)
    if (number !== (this.last ?? Number.NaN) + 1 || data.length !== number % 50)
      this.problems.push(`${block.slice(0, 40)} after ${this.last}`)
    this.last = number
    this.events += 1
  }
}
