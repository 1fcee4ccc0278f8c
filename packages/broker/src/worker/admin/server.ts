import { chmodSync } from 'node:fs'
import type { Server } from 'node:http'
import type { Socket } from 'node:net'

import Fastify, {
  LogController,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyHttpOptions,
} from 'fastify'
import type { OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'

import type { Address } from '../../config/address.ts'
import type { Config } from '../../config/config.ts'
import { AdminSocket } from './admin-socket.ts'
import { AdminError, type AdminErrorCode } from './errors.ts'
import { adminListenError } from '../../listening/admin-errors.ts'
import { refuseClient, refuseConnect, refusePipelined } from './client-error.ts'
import { ConnectionLimit, MAX_PIPELINED } from './connection-limit.ts'
import { guard } from './guard.ts'
import { addPage } from './page.ts'
import { addRoutes } from './routes.ts'
import { SecondSocket } from './second-socket.ts'
import { http } from '../../node-http.ts'
import { removeStaleSocket } from '../../listening/sockets.ts'
import type { WorkerView } from './view.ts'

/** Until a whole request must have arrived, so that a stalled client does not hold its connection indefinitely. */
const REQUEST_TIMEOUT_MS = 10_000
/** Until a request's head must have arrived, the first also counted from the connect. Shorter, because no token has been shown yet. */
const HEADERS_TIMEOUT_MS = 5000
/** How long a connection may be idle between requests. */
const KEEP_ALIVE_TIMEOUT_MS = 5000
/** How often Node checks these timeouts. */
const TIMEOUT_CHECK_MS = 1000
/** Characters of a request's path and query. No route needs more. */
const MAX_URL_LENGTH = 2048
const BODY_LIMIT_BYTES = 16 * 1024
/**
 * Each connection uses one of the worker's descriptors, which clients need, and on loopback every user of the host can connect.
 */
export const MAX_CONNECTIONS = 256
/** Limit while descriptors are scarce. These come from the reserve that clients may not use up. */
const MAX_CONNECTIONS_UNDER_PRESSURE = 32
/** Minimum time between log lines about too many connections. */
const FULL_LOG_INTERVAL_MS = 60_000
/** How long `close` waits for responses that are being written. */
const CLOSE_GRACE_MS = 1000

export interface AdminOptions {
  readonly config: Pick<Config, 'admin' | 'runtimeDir'>
  readonly view: WorkerView
  readonly logger: Logger
  /** A socket that is already listening. Owned by the server. */
  readonly socket?: OwnedFd | undefined
  /** Whether descriptors are scarce. Default: never. */
  readonly pressed?: (() => boolean) | undefined
}

export interface Admin {
  /**
   * Binds `admin.listen`, or accepts from the given socket: again after `pause`.
   *
   * @returns the bound address, with the port that the kernel chose for port 0
   * @throws {AdminListenError} names the configuration key and the address
   */
  listen(): Promise<{ address: Address }>
  /**
   * Accepts nothing from the given socket until `listen`: another worker does. What has been accepted is answered, and then closed; what is idle is
   * closed.
   */
  pause(): void
  /** The socket's file was recreated; also accepts on the new socket `fd`. Owns `fd`. */
  replaceSocket(fd: OwnedFd): void
  /** Stops accepting; resolves when the last request is answered. */
  drain(): Promise<void>
  /** Stops listening and ends every connection, after a second at most. May be called before `listen`, and more than once. */
  close(): Promise<void>
}

/** The admin HTTP server: metrics, health, status, drain and reload requests, event streams and the status page. */
export function createAdmin({ config, view, logger, socket, pressed }: AdminOptions): Admin {
  const { listen } = config.admin
  const options: FastifyHttpOptions<Server> = {
    loggerInstance: logger.child({ component: 'admin' }),
    // A scrape every few seconds would fill the log; failures are logged by the error handler.
    logController: new LogController({ disableRequestLogging: true }),
    serverFactory: (handle) =>
      http().createServer(
        {
          requestTimeout: REQUEST_TIMEOUT_MS,
          keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
          headersTimeout: HEADERS_TIMEOUT_MS,
          connectionsCheckingInterval: TIMEOUT_CHECK_MS,
          // `checkRequest` does this: Node would answer with an empty body.
          requireHostHeader: false,
        },
        (request, response) => {
          const verdict = limit.admit(request, response)
          if (verdict === 'handle') handle(request, response)
          else if (verdict === 'refuse') refusePipelined(response, MAX_PIPELINED)
        },
      ),
    bodyLimit: BODY_LIMIT_BYTES,
    routerOptions: { maxParamLength: MAX_URL_LENGTH },
    clientErrorHandler: (error, client) => refuseClient(error, client, limit.isAnswering(client)),
    // Routes check their input themselves. Fastify's compilers of JSON schemas are half of its code, and are left out of the bundle.
    schemaController: { compilersFactory: { buildValidator: noSchemas, buildSerializer: noSchemas } },
    frameworkErrors: (error, _request, reply) => {
      void answer(
        reply,
        new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', error.message.slice(0, MAX_MESSAGE_LENGTH)),
      )
    },
  }
  const app = Fastify(options)
  let fullSince = -FULL_LOG_INTERVAL_MS
  const limit = new ConnectionLimit(
    app.server,
    () => (pressed?.() === true ? MAX_CONNECTIONS_UNDER_PRESSURE : MAX_CONNECTIONS),
    MAX_CONNECTIONS,
    (peer) => {
      if (performance.now() - fullSince < FULL_LOG_INTERVAL_MS) return
      fullSince = performance.now()
      logger.warn({ peer, connections: MAX_CONNECTIONS }, 'too many admin connections; idle ones are closed')
    },
  )
  // Unknown expectations may be ignored (RFC 9110, section 10.1.1); Node would answer with an empty body.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))
  app.server.on('connect', (_request, client: Socket) => refuseConnect(client))
  /** Another worker accepts. */
  let leaving = false
  let closing = false
  const given = socket && new AdminSocket(app.server, socket)
  const second = new SecondSocket(app.server, MAX_CONNECTIONS)
  // Until `listen`: the worker before accepts.
  if (given !== undefined) second.pause()
  acceptJsonOnly(app)
  app.addHook('onRequest', (request, _reply, done) => {
    const route = request.routeOptions.url
    done(checkRequest(request) ?? guard(config, { method: request.method, route, headers: request.headers }))
  })
  app.addHook('onSend', (_request, reply, _payload, done) => {
    // On a kept connection a client would keep polling a worker that is leaving.
    if (leaving) reply.header('connection', 'close')
    reply.headers({ 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' })
    done()
  })
  answerErrors(app)
  addRoutes(app, view, config.admin.token !== null, (client) => limit.keep(client))
  addPage(app)

  return {
    async listen() {
      try {
        if (given !== undefined) {
          await app.ready()
          await given.listen()
          leaving = false
          second.resume()
          return { address: boundAddress(app, listen) }
        }
        if (listen.kind === 'unix') await removeStaleSocket(listen.path)
        await app.listen(
          listen.kind === 'unix' ? { path: listen.path } : { host: listen.host, port: listen.port },
        )
        // Connecting requires write permission on the file (unix(7)), so access does not depend on a token alone.
        if (listen.kind === 'unix') chmodSync(listen.path, 0o600)
      } catch (error) {
        throw adminListenError(listen, error)
      }
      return { address: boundAddress(app, listen) }
    },
    pause() {
      leaving = true
      given?.pause()
      second.pause()
      // Requests that have arrived are read in the turn between, so that their connections are not idle.
      setImmediate(() => setImmediate(() => leaving && app.server.closeIdleConnections()))
    },
    replaceSocket(fd) {
      if (closing) fd.close()
      else second.replace(fd)
    },
    async drain() {
      leaving = closing = true
      given?.close()
      const ended = second.close()
      // Requests in progress keep their connections; idle ones are closed (net.Server.close, http.Server.close).
      await closed(app.server)
      await ended
    },
    async close() {
      leaving = closing = true
      void second.close()
      given?.close()
      const cut = setTimeout(() => app.server.closeAllConnections(), CLOSE_GRACE_MS)
      // Fastify closes only what it listens on itself.
      await Promise.all([app.close(), given && closed(app.server)])
      clearTimeout(cut)
    },
  }
}

/** Stops listening; resolves when no connection is left. Idle ones are closed. */
function closed(server: Server): Promise<void> {
  return new Promise((resolve) => server.close(() => resolve()))
}

function noSchemas(): never {
  throw new Error('routes of the admin server have no JSON schemas')
}

/** Refuses forms and plain text, which pages of another origin may post without a preflight request. */
function acceptJsonOnly(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    if (body === '') return done(null, undefined)
    try {
      done(null, JSON.parse(String(body)))
    } catch {
      done(new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', 'the body is not JSON'))
    }
  })
}

function answerErrors(app: FastifyInstance): void {
  const routes: { pattern: RegExp; methods: string[] }[] = []
  app.addHook('onRoute', ({ url, method }) => {
    // Apart from parameters, the patterns contain nothing special to regular expressions.
    routes.push({ pattern: new RegExp(`^${url.replaceAll(/:\w+/g, '[^/]+')}$`), methods: [method].flat() })
  })
  app.setNotFoundHandler((request, reply) => {
    const path = (request.url.split('?', 1)[0] ?? '').slice(0, MAX_MESSAGE_LENGTH)
    const allowed = routes.filter(({ pattern }) => pattern.test(path)).flatMap(({ methods }) => methods)
    if (allowed.length === 0)
      return answer(
        reply,
        new AdminError('BATON_ERR_ADMIN_NO_ROUTE', `there is no ${request.method} ${path}`),
      )
    // RFC 9110, section 15.5.6: a 405 lists the allowed methods.
    const allow = [...new Set(allowed)].join(', ')
    reply.header('allow', allow)
    return answer(reply, new AdminError('BATON_ERR_ADMIN_METHOD', `${request.method} ${path}: only ${allow}`))
  })
  app.setErrorHandler<FastifyError | AdminError>((error, request, reply) => {
    if (error instanceof AdminError) return answer(reply, error)
    const code = FASTIFY_CODES.get(error.statusCode ?? 500)
    if (code !== undefined)
      return answer(reply, new AdminError(code, error.message.slice(0, MAX_MESSAGE_LENGTH)))
    request.log.error({ err: error }, 'admin request failed')
    return answer(reply, new AdminError('BATON_ERR_ADMIN_INTERNAL', "internal error; see the broker's log"))
  })
}

const FASTIFY_CODES: ReadonlyMap<number, AdminErrorCode> = new Map([
  [400, 'BATON_ERR_ADMIN_BAD_REQUEST'],
  [413, 'BATON_ERR_ADMIN_BODY_TOO_LARGE'],
  [415, 'BATON_ERR_ADMIN_MEDIA_TYPE'],
])

function answer(reply: FastifyReply, { code, statusCode, message }: AdminError): FastifyReply {
  // RFC 9110, section 11.6.1: a 401 carries a challenge.
  if (statusCode === 401) reply.header('www-authenticate', 'Bearer')
  return reply.code(statusCode).send({ error: { code, message } })
}

/** Maximum characters of a message that may repeat the client's input. */
const MAX_MESSAGE_LENGTH = 512

function checkRequest({ url, raw }: FastifyRequest): AdminError | undefined {
  if (url.length > MAX_URL_LENGTH)
    return new AdminError(
      'BATON_ERR_ADMIN_URI_TOO_LONG',
      `the URL is longer than ${MAX_URL_LENGTH} characters`,
    )
  if (raw.httpVersion === '1.1' && raw.headers.host === undefined)
    return new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', 'the Host header is missing')
  return undefined
}

function boundAddress(app: FastifyInstance, asked: Address): Address {
  const bound = app.server.address()
  if (bound === null || typeof bound === 'string') return asked
  return { kind: 'tcp', host: bound.address, port: bound.port }
}
