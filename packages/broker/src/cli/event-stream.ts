import type { Config } from '../config/config.ts'
import { openStream } from './admin-client.ts'
import { EventParser } from './event-parser.ts'

/** The broker says something each second, and a stream that is alive at least every 15 s; one that is silent for longer is not. */
const SILENCE_MS = 20_000

/** An event of `GET /api/v1/events`, with what its JSON says. */
export interface BrokerEvent {
  readonly event: string
  readonly data: unknown
}

/**
 * The broker's events until the stream ends: with its worker, so at every reload, or because it was cut off or fell silent.
 *
 * @throws CommandError when nobody answers; RefusedError when the broker does not give it
 */
export async function* brokerEvents(config: Config, signal: AbortSignal): AsyncGenerator<BrokerEvent> {
  const stream = await openStream(config, '/api/v1/events', 'text/event-stream', signal)
  const parser = new EventParser()
  stream.setTimeout(SILENCE_MS, () => stream.destroy())
  try {
    for await (const piece of stream.setEncoding('utf8')) {
      for (const { event, data } of parser.push(String(piece))) yield { event, data: parse(data) }
    }
  } catch {
    // Cut off, by the end of a worker or of the broker: whoever asks again is told what has become of it.
  } finally {
    stream.destroy()
  }
}

function parse(data: string): unknown {
  try {
    return JSON.parse(data)
  } catch {
    return undefined
  }
}
