import {
  EPOLLIN,
  EPOLLRDHUP,
  NativeError,
  type Poller,
  receivePlain,
  send,
  type Watch,
} from '@baton/native-sendmsg'
import { discardClient } from '../connection/close-clients.ts'
import type { ClientConnection } from '../connection/connection.ts'

const RETRY_AFTER = 5
const BODY = 'No backend could take this connection.\n'
const RESPONSE = Buffer.from(
  `HTTP/1.1 503 Service Unavailable\r\nRetry-After: ${RETRY_AFTER}\r\nConnection: close\r\n` +
    `Content-Type: text/plain; charset=utf-8\r\nContent-Length: ${BODY.length}\r\n\r\n${BODY}`,
)

/** How long a client may take to read its 503 and close, in milliseconds. */
const LINGER_MS = 1000
/** Maximum bytes of the request that one read discards. */
const CHUNK = 64 * 1024

interface Lingering {
  readonly watch: Watch
  readonly timer: NodeJS.Timeout
  readonly closed: () => void
}

/**
 * Rejects clients: 503 on HTTP listeners, a plain close otherwise.
 *
 * If a socket is closed with unread data, the kernel sends a reset, which can destroy an answer that the client has not read yet.
 * So after a 503 the client's data is read and discarded until it closes, or until a timeout (RFC 9112, section 9.6).
 */
export class LingeringClose {
  readonly #poller: Poller
  readonly #lingering = new Map<ClientConnection, Lingering>()
  readonly #idle: (() => void)[] = []

  constructor(poller: Poller) {
    this.#poller = poller
  }

  /** Takes ownership of the connection's descriptor. */
  reject(connection: ClientConnection): void {
    if (connection.listener.protocol === 'http') this.answer(connection, RESPONSE)
    else discardClient(connection)
  }

  /** Sends an answer, and then closes. Takes ownership of the connection's descriptor. @param closed called once it is closed */
  answer(connection: ClientConnection, bytes: Buffer, closed = () => {}): void {
    const { fd } = connection
    if (!tries(() => send(fd.fd, bytes))) {
      discardClient(connection)
      return closed()
    }
    let watch: Watch
    try {
      watch = this.#poller.add(fd.fd, EPOLLIN | EPOLLRDHUP, () => this.#discard(connection))
    } catch (error) {
      discardClient(connection)
      closed()
      if (error instanceof NativeError) return
      throw error
    }
    const timer = setTimeout(() => this.#close(connection), LINGER_MS)
    this.#lingering.set(connection, { watch, timer, closed })
  }

  /** The same without waiting: a client that has sent something may see a reset instead of the answer. */
  answerAtOnce(connection: ClientConnection, bytes: Buffer): void {
    tries(() => send(connection.fd.fd, bytes))
    discardClient(connection)
  }

  /** Resolves when the last client is closed, after a second at most. */
  async idle(): Promise<void> {
    if (this.#lingering.size > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  #discard(connection: ClientConnection): void {
    let ended = false
    const readable = tries(() => {
      ended = receivePlain(connection.fd.fd, CHUNK).length === 0
    })
    if (ended || !readable) this.#close(connection)
  }

  #close(connection: ClientConnection): void {
    const lingering = this.#lingering.get(connection)
    if (lingering === undefined) return
    this.#lingering.delete(connection)
    clearTimeout(lingering.timer)
    lingering.watch.remove()
    discardClient(connection)
    lingering.closed()
    if (this.#lingering.size === 0) for (const resolve of this.#idle.splice(0)) resolve()
  }
}

/** False if the client's socket has failed. EAGAIN is not a failure. */
function tries(action: () => void): boolean {
  try {
    action()
    return true
  } catch (error) {
    if (error instanceof NativeError) return error.code === 'EAGAIN'
    throw error
  }
}
