import type { FastifyReply } from 'fastify'
import { type EventFeed, MAX_STREAMS } from '../events/event-feed.ts'
import { AdminError } from './errors.ts'

/** Answers with the feed's events until either side ends the stream. */
export function streamEvents(reply: FastifyReply, feed: EventFeed): void {
  if (!feed.room) {
    throw new AdminError(
      'BATON_ERR_ADMIN_STREAMS',
      feed.closed
        ? 'this worker is shutting down; reconnect'
        : `${MAX_STREAMS} event streams are already open`,
    )
  }
  // Bypasses Fastify from here on, including the headers that its hooks add to every response.
  reply.hijack()
  const { raw } = reply
  raw.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    // A client must reconnect after the stream ends, because another worker may be serving then.
    connection: 'close',
  })
  const leave = feed.open({
    write: (text) => void raw.write(text),
    get waiting() {
      return raw.writableLength
    },
    end: () => raw.end(),
    cut: () => raw.destroy(),
  })
  // Not the response's `close`: a response queued behind an earlier one (HTTP/1.1 pipelining) does not emit it.
  reply.request.raw.socket.once('close', leave)
}
