import { NativeError, recv, send } from '@baton/native-sendmsg'
import type { ClientConnection } from './connection.ts'

const RETRY_AFTER = 5
const BODY = 'No backend could take this connection.\n'
const RESPONSE = Buffer.from(
  `HTTP/1.1 503 Service Unavailable\r\nRetry-After: ${RETRY_AFTER}\r\nConnection: close\r\n` +
    `Content-Type: text/plain; charset=utf-8\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`,
)
const MOST_UNREAD = 64 * 1024

/**
 * Gives a client up, and closes it: with a 503 where it speaks HTTP, plainly elsewhere. What the client has sent is read
 * first, because a close with unread data makes the kernel send a reset, which can overtake the answer.
 */
export function reject({ fd, listener }: ClientConnection): void {
  if (listener.protocol === 'http') {
    try {
      send(fd.fd, RESPONSE)
      recv(fd.fd, MOST_UNREAD)
    } catch (error) {
      // It has left, or has sent nothing (EAGAIN): closing is all there is to do.
      if (!(error instanceof NativeError)) throw error
    }
  }
  fd.close()
}
