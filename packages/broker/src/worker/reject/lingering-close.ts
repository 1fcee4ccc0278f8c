import {
  EPOLLIN,
  EPOLLOUT,
  EPOLLRDHUP,
  NativeError,
  poll,
  type Poller,
  POLLIN,
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

const EVENTS = EPOLLIN | EPOLLRDHUP

/** How long a client may take to read its 503 and close, in milliseconds. */
const LINGER_MS = 1000
/** The same where the answer did not fit into the client's window. */
const LONG_LINGER_MS = 5000
/** Maximum bytes of the request that one read discards. */
const CHUNK = 64 * 1024

interface Lingering {
  readonly watch: Watch
  /** Not sent yet: the client's window was full. */
  unsent: Buffer
  /** The client sends no more. */
  ended: boolean
  readonly timer: NodeJS.Timeout
  readonly closed: () => void
}

/**
 * Rejects clients: 503 on HTTP listeners, a plain close otherwise, and where no request waits for an answer.
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

  /** Takes ownership of the connection's descriptor. @param response on HTTP listeners. Default: a 503 */
  reject(connection: ClientConnection, response: Buffer = RESPONSE): void {
    if (connection.listener.protocol === 'http' && !isBetweenRequests(connection))
      this.answer(connection, response)
    else discardClient(connection)
  }

  /** Sends an answer, and then closes. Takes ownership of the connection's descriptor. @param closed called once it is closed */
  answer(connection: ClientConnection, bytes: Buffer, closed: () => void = () => {}): void {
    const unsent = sendSome(connection, bytes)
    if (unsent === undefined) {
      discardClient(connection)
      return closed()
    }
    let watch: Watch
    try {
      const events = unsent.length > 0 ? EVENTS | EPOLLOUT : EVENTS
      watch = this.#poller.add(connection.fd.fd, events, (ready) => this.#ready(connection, ready))
    } catch (error) {
      discardClient(connection)
      closed()
      if (error instanceof NativeError) return
      throw error
    }
    const time = unsent.length > 0 ? LONG_LINGER_MS : LINGER_MS
    const timer = setTimeout(() => this.#close(connection), time)
    this.#lingering.set(connection, { watch, unsent, ended: false, timer, closed })
  }

  /** The same without waiting: a client that has sent something may see a reset instead of the answer. */
  answerAtOnce(connection: ClientConnection, bytes: Buffer): void {
    tries(() => send(connection.fd.fd, bytes))
    discardClient(connection)
  }

  /** Resolves when the last client is closed, after five seconds at most. */
  async idle(): Promise<void> {
    if (this.#lingering.size > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  #ready(connection: ClientConnection, events: number): void {
    if ((events & EPOLLOUT) !== 0) this.#sendMore(connection)
    if ((events & ~EPOLLOUT) !== 0) this.#discard(connection)
  }

  /** The client has read some. */
  #sendMore(connection: ClientConnection): void {
    const lingering = this.#lingering.get(connection)
    if (lingering === undefined) return
    const unsent = sendSome(connection, lingering.unsent)
    if (unsent === undefined) return this.#close(connection)
    lingering.unsent = unsent
    if (unsent.length === 0 && lingering.ended) return this.#close(connection)
    if (unsent.length === 0) lingering.watch.modify(EVENTS)
  }

  #discard(connection: ClientConnection): void {
    const lingering = this.#lingering.get(connection)
    if (lingering === undefined) return
    let ended = false
    const readable = tries(() => {
      ended = receivePlain(connection.fd.fd, CHUNK).length === 0
    })
    if (ended && lingering.unsent.length > 0) {
      lingering.ended = true
      lingering.watch.modify(EPOLLOUT)
    } else if (ended || !readable) this.#close(connection)
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

/** A connection that was kept alive, and whose next request has not come. */
function isBetweenRequests({ fd, quietUntil }: ClientConnection): boolean {
  return quietUntil !== undefined && poll(fd.fd, POLLIN) === 0
}

/** Sends what the client's window has room for. @returns the rest; undefined if the socket has failed */
function sendSome({ fd }: ClientConnection, bytes: Buffer): Buffer | undefined {
  let rest = bytes
  const sent = tries(() => {
    while (rest.length > 0) rest = rest.subarray(send(fd.fd, rest))
  })
  return sent ? rest : undefined
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
