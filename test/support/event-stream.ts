import { once } from 'node:events'
import { type IncomingMessage, request as httpRequest } from 'node:http'
import type { Test } from 'tap'
import type { Broker } from './broker.ts'
import { eventually } from './eventually.ts'

/** One server-sent event. */
export interface ServerEvent {
  readonly id: string
  readonly event: string
  readonly data: Record<string, unknown>
}

/** A client of `GET /api/v1/events`, with everything it has received. */
export class EventStream {
  /** Resolves when the server ends the stream. */
  readonly ended: Promise<void>
  readonly response: IncomingMessage
  #text = ''

  constructor(response: IncomingMessage) {
    this.response = response
    response.setEncoding('utf8')
    response.on('data', (chunk: string) => (this.#text += chunk))
    response.on('error', () => {})
    this.ended = new Promise((resolve) => response.on('close', resolve))
  }

  static async open(t: Test, broker: Broker, headers: Record<string, string> = {}): Promise<EventStream> {
    const request = httpRequest(`${broker.admin}/api/v1/events`, { agent: false, headers })
    t.teardown(() => request.destroy())
    request.end()
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    request.on('error', () => {})
    return new EventStream(response)
  }

  /** The complete events. */
  get events(): ServerEvent[] {
    return this.#text
      .split('\n\n')
      .slice(0, -1)
      .filter((block) => !block.startsWith(':'))
      .map((block) => {
        const [, id = '', event = '', data = ''] = /^id: (.*)\nevent: (.*)\ndata: (.*)$/.exec(block) ?? []
        return { id, event, data: JSON.parse(data) as Record<string, unknown> }
      })
  }

  get changes(): Record<string, unknown>[] {
    return this.events.filter(({ event }) => event === 'change').map(({ data }) => data)
  }

  /** The first event that `matches`, past or future. */
  async event(
    event: string,
    matches: (data: Record<string, unknown>) => boolean,
    what: string,
  ): Promise<ServerEvent> {
    let found: ServerEvent | undefined
    await eventually(
      () => {
        found = this.events.find((each) => each.event === event && matches(each.data))
        return found !== undefined
      },
      () => `${what}; received ${JSON.stringify(this.changes)}`,
    )
    return found as ServerEvent
  }

  change(matches: (data: Record<string, unknown>) => boolean, what: string): Promise<ServerEvent> {
    return this.event('change', matches, what)
  }
}
