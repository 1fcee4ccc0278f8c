import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

/** Connections over the limit, for sockets that were closed to make room and have not emitted `close` yet. */
const CLOSING_MARGIN = 64

/**
 * Maximum requests per connection waiting for their responses (pipelining). Node passes all requests of one read to the handler in
 * one turn of the event loop, which can be thousands.
 */
export const MAX_PIPELINED = 4
/** Pending requests after which the connection is closed without waiting for responses that are due. */
const MAX_IGNORED = 4096

interface Connection {
  readonly socket: Socket
  readonly peer: string
  /** Requests whose response has not ended. */
  requests: number
  /** The response to the last of them. */
  last: ServerResponse | undefined
  /** One of them is an event stream, or changes something. Such connections are not closed to make room. */
  busy: boolean
}

/**
 * Limits the connections of an HTTP server without refusing new ones: `/healthz` and `/metrics` must answer however many clients
 * hold connections. At the limit a new connection replaces one without a pending request: of the peer that has the most
 * connections, the least recently active. If all have pending requests, it replaces one that is not `busy`.
 */
export class ConnectionLimit {
  /** The least recently active first. */
  readonly #connections = new Map<Socket, Connection>()
  readonly #limit: () => number
  readonly #onFull: (peer: string) => void

  /**
   * @param limit evaluated for each new connection
   * @param onFull a connection of this peer was closed to make room
   */
  constructor(server: Server, limit: () => number, max: number, onFull: (peer: string) => void) {
    this.#limit = limit
    this.#onFull = onFull
    server.maxConnections = max + CLOSING_MARGIN
    server.on('connection', (socket: Socket) => this.#add(socket))
  }

  /**
   * Called for each request. `refuse`: too many are pending on this connection; answer with an error, and close it. `ignore`: the
   * connection is closed, or will be after an earlier response.
   */
  admit(request: IncomingMessage, response: ServerResponse): 'handle' | 'refuse' | 'ignore' {
    const connection = this.#connections.get(request.socket)
    // The connection was closed, but its parser has not stopped yet.
    if (connection === undefined || request.socket.destroyed) return 'ignore'
    connection.requests += 1
    if (connection.requests > MAX_PIPELINED + 1) {
      if (connection.requests > MAX_IGNORED) request.socket.destroy()
      return 'ignore'
    }
    connection.last = response
    request.once('end', () => {
      connection.busy ||= request.method !== 'GET' && request.method !== 'HEAD'
    })
    response.once('close', () => {
      connection.requests -= 1
      if (connection.requests === 0) connection.busy = false
      if (this.#connections.delete(request.socket)) this.#connections.set(request.socket, connection)
    })
    return connection.requests > MAX_PIPELINED ? 'refuse' : 'handle'
  }

  /** Keeps a connection open whose response is an event stream. */
  keep(socket: Socket): void {
    const connection = this.#connections.get(socket)
    if (connection !== undefined) connection.busy = true
  }

  /**
   * Whether a response to this client has begun or is due, so that nothing else may be written. A request that has not arrived
   * completely does not count.
   */
  isAnswering(socket: Socket): boolean {
    const { requests = 0, last } = this.#connections.get(socket) ?? {}
    const isOfThisRequest = requests === 1 && last?.headersSent === false && !last.req.complete
    return requests > 0 && !isOfThisRequest
  }

  #add(socket: Socket): void {
    for (let excess = this.#connections.size + 1 - this.#limit(); excess > 0; excess--) {
      const last = this.#leastNeeded()
      if (last === undefined) break
      this.#connections.delete(last.socket)
      last.socket.destroy()
      this.#onFull(last.peer)
    }
    const peer = socket.remoteAddress ?? 'a Unix socket'
    this.#connections.set(socket, { socket, peer, requests: 0, last: undefined, busy: false })
    socket.once('close', () => this.#connections.delete(socket))
  }

  #leastNeeded(): Connection | undefined {
    const all = [...this.#connections.values()]
    const idle = all.filter(({ requests }) => requests === 0)
    const among = idle.length > 0 ? idle : all.filter(({ busy }) => !busy)
    const counts = new Map<string, number>()
    for (const { peer } of all) counts.set(peer, (counts.get(peer) ?? 0) + 1)
    let found: Connection | undefined
    for (const each of among) {
      if (found === undefined || (counts.get(each.peer) ?? 0) > (counts.get(found.peer) ?? 0)) found = each
    }
    return found
  }
}
