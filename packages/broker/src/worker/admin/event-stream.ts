import type { FastifyReply } from 'fastify'
import { type EventFeed, MAX_STREAMS } from '../events/event-feed.ts'
import { AdminError } from './errors.ts'

/** Answers with the feed's events for as long as both sides want. */
export function streamEvents(reply: FastifyReply, feed: EventFeed): void {
  if (!feed.room) {
    throw new AdminError(
      'BATON_ERR_ADMIN_STREAMS',
      feed.closed ? 'this process ends; connect again' : `${MAX_STREAMS} streams of events are open already`,
    )
  }
  // Written by hand from here on, and so are the headers that every answer has.
  reply.hijack()
  const { raw } = reply
  raw.writeHead(200, {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    // The end of the stream is the end of the connection: the next one may belong to another worker.
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
  // Not of the answer: one that waits behind the answer to an earlier request (HTTP/1.1 pipelining) never hears of the end.
  reply.request.raw.socket.once('close', leave)
}
