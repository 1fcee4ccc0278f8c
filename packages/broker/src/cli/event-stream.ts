import type { BrokerPlace } from '../config/file.ts'
import { packageFile } from '../package-files.ts'
import { openStream } from './admin-client.ts'

/** The broker sends an event every second, and a live stream carries something at least every 15 s: after this long it is dead. */
const SILENCE_MS = 20_000

/** The parser of the status page, which a browser loads as it is. */
const PARSER = packageFile('page/event-parser.js').href

interface EventParser {
  /** @returns the events that are complete with this piece of text; `event` is `message` where the stream names none */
  push(text: string): { event: string; data: string }[]
}

/** An event of `GET /api/v1/events`. */
export interface BrokerEvent {
  readonly event: string
  /** Parsed from JSON. */
  readonly data: unknown
}

/**
 * Yields the broker's events until the stream ends: when its worker exits, as at every reload, or because it was cut off or silent.
 *
 * @throws CommandError when the broker cannot be reached; RefusedError when it refuses the stream
 */
export async function* brokerEvents(config: BrokerPlace, signal: AbortSignal): AsyncGenerator<BrokerEvent> {
  const stream = await openStream(config, '/api/v1/events', 'text/event-stream', signal)
  stream.setTimeout(SILENCE_MS, () => stream.destroy())
  try {
    const page = (await import(PARSER)) as { EventParser: new () => EventParser }
    const parser = new page.EventParser()
    for await (const piece of stream.setEncoding('utf8')) {
      for (const { event, data } of parser.push(String(piece))) yield { event, data: parse(data) }
    }
  } catch {
    // Cut off, because the worker or the broker exited. The next attempt to connect reports what has happened.
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
