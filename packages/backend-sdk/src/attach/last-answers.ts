import type { IncomingMessage, ServerResponse } from 'node:http'
import { http } from '../node-http.ts'
import type { Duplex } from 'node:stream'
import { DenseList } from './dense-list.ts'

/** One HTTP/1 connection: the response to its newest request, until that response is finished. */
interface Exchange {
  readonly socket: Duplex
  readonly owner: LastAnswers
  newest: ServerResponse | undefined
  /** performance.now() when the last answer was over. */
  idleSince: number
  /** Answers while draining that have left the connection open, although idle ones could leave. */
  kept: number
  index: number
}

/** Key of the exchange on its socket and its responses. Not a Map or a WeakMap: see `DenseList`. */
const exchangeOf = Symbol('baton exchange')

interface Exchanging {
  [exchangeOf]?: Exchange
}

/** Listener of every response: one for all, since each function of its own would cost every request. */
function answerClosed(this: ServerResponse & Exchanging): void {
  const exchange = this[exchangeOf]
  if (exchange?.newest === this) exchange.owner.becameIdle(exchange)
}

/** Listener of every connection. */
function connectionClosed(this: Duplex & Exchanging): void {
  const exchange = this[exchangeOf]
  exchange?.owner.forget(exchange)
}

/** A connection on which the client always has the next request on its way is never idle: it ends with this answer. */
const MAX_KEPT = 8

/** Where idle connections go while draining. Asked again and again. */
export interface IdleTaker {
  /** Whether this connection (undefined: any) leaves when it is idle, and need not end here. */
  takes(socket: Duplex | undefined): boolean
  /** Idle connections wait until there is room for them: one that is still here need not be a busy one. */
  readonly behind: boolean
}

/** Events with which an `http.Server` passes a request and its response to the app. */
const REQUEST_EVENTS = new Set<string | symbol>(['request', 'checkContinue', 'checkExpectation'])

/** Whether `server.emit(event, ...args)` passes an HTTP/1 request to the app. HTTP/2 responses are of another class. */
export function isRequest(
  event: string | symbol,
  args: unknown[],
): args is [IncomingMessage, ServerResponse] {
  return (
    REQUEST_EVENTS.has(event) &&
    args[0] instanceof http.IncomingMessage &&
    args[1] instanceof http.ServerResponse
  )
}

/**
 * Ends HTTP/1 connections without losing a request: while draining, the response to the newest request of a connection carries
 * `Connection: close`, and Node closes the connection after it. A response with further requests waiting behind it must not carry
 * it, since nothing may follow (RFC 9112, 9.6), and whether it is the newest is known only when its head is written. An idle
 * connection stays open until its next request, which may be on its way.
 */
export class LastAnswers {
  readonly #exchanges = new DenseList<Exchange>()
  readonly #onIdle: (socket: Duplex) => void
  #draining = false
  #taker: IdleTaker = { takes: () => false, behind: false }

  /** @param onIdle called when the answer to the newest request of a connection is over */
  constructor(onIdle: (socket: Duplex) => void = () => {}) {
    this.#onIdle = onIdle
  }

  get draining(): boolean {
    return this.#draining
  }

  /** Connections that have had a request. */
  get connections(): Iterable<Duplex> {
    return this.#exchanges.all().map(({ socket }) => socket)
  }

  /** Whether a request of this connection has no complete response yet. */
  isAnswering(socket: Duplex): boolean {
    return this.#of(socket)?.newest !== undefined
  }

  /** Whether no request of this connection has come behind the one of this response, which is not complete. */
  isNewest(socket: Duplex, response: ServerResponse): boolean {
    return this.#of(socket)?.newest === response
  }

  /** When its last answer was over, by performance.now(); undefined before the first request. */
  idleSince(socket: Duplex): number | undefined {
    return this.#of(socket)?.idleSince
  }

  /** Must be called for each request before the app gets it. */
  received(request: IncomingMessage, response: ServerResponse & Exchanging): void {
    const exchange = this.#of(request.socket) ?? this.#open(request.socket)
    exchange.newest = response
    response[exchangeOf] = exchange
    response.on('close', answerClosed)
    if (this.#draining) this.#sayClose(request.socket, exchange, response)
  }

  /**
   * A response whose head is already written keeps what it promised.
   *
   * @param taker asked when the head of a response is written
   */
  drain(taker: IdleTaker): void {
    this.#draining = true
    this.#taker = taker
    for (const exchange of this.#exchanges.all()) {
      const { socket, newest } = exchange
      if (newest && !newest.headersSent) this.#sayClose(socket, exchange, newest)
    }
  }

  /** The answer to the newest request of a connection is over. */
  becameIdle(exchange: Exchange): void {
    exchange.newest = undefined
    exchange.idleSince = performance.now()
    this.#onIdle(exchange.socket)
  }

  forget(exchange: Exchange): void {
    this.#exchanges.remove(exchange)
  }

  #sayClose(socket: Duplex, exchange: Exchange, response: ServerResponse): void {
    addCloseIf(() => {
      if (exchange.newest !== response) return false
      if (exchange.kept >= MAX_KEPT || !this.#taker.takes(socket)) return true
      if (!this.#taker.behind) exchange.kept += 1
      return false
    }, response)
  }

  /** Of a connection that is open, and had a request here. */
  #of(socket: Duplex & Exchanging): Exchange | undefined {
    const exchange = socket[exchangeOf]
    return exchange?.owner === this && exchange.index !== -1 ? exchange : undefined
  }

  #open(socket: Duplex & Exchanging): Exchange {
    const exchange: Exchange = {
      socket,
      owner: this,
      newest: undefined,
      idleSince: performance.now(),
      kept: 0,
      index: -1,
    }
    this.#exchanges.add(exchange)
    socket[exchangeOf] = exchange
    socket.on('close', connectionClosed)
    return exchange
  }
}

/** Node writes every head through `writeHead`, including implicit ones; only then is `newest` called. */
function addCloseIf(newest: () => boolean, response: ServerResponse): void {
  const below = response.writeHead.bind(response)
  const layer = (status: number, ...rest: unknown[]): unknown => {
    if (!newest()) return Reflect.apply(below, response, [status, ...rest])
    response.shouldKeepAlive = false
    // The app's own header overrides `shouldKeepAlive`, and proxies copy `Connection: keep-alive` into every response.
    const set = response.getHeader('connection')
    if (set !== undefined) response.setHeader('Connection', closing(set))
    return Reflect.apply(below, response, [status, ...rest.map(withClose)])
  }
  Object.defineProperty(response, 'writeHead', { value: layer, writable: true, configurable: true })
}

/** An argument of `writeHead` may be a reason phrase, or headers as an object, a flat list or a list of pairs. */
function withClose(argument: unknown): unknown {
  if (typeof argument !== 'object' || argument === null) return argument
  if (!Array.isArray(argument)) return Object.fromEntries(Object.entries(argument).map(pairWithClose))
  const list: unknown[] = argument
  if (Array.isArray(list[0]))
    return list.map((pair) => (Array.isArray(pair) ? pairWithClose([pair[0], pair[1]]) : pair))
  return list.map((item, index) => (index % 2 === 1 && isConnection(list[index - 1]) ? closing(item) : item))
}

function pairWithClose<N>([name, value]: [N, unknown]): [N, unknown] {
  return [name, isConnection(name) ? closing(value) : value]
}

function isConnection(name: unknown): boolean {
  return typeof name === 'string' && name.toLowerCase() === 'connection'
}

/** Keeps other options of the header, such as `upgrade` in a 426. */
function closing(value: unknown): string {
  const options = String(value)
    .split(',')
    .map((option) => option.trim())
    .filter((option) => option !== '' && !/^(keep-alive|close)$/i.test(option))
  return [...options, 'close'].join(', ')
}
