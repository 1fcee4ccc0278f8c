import { chmodSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
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
import { AdminError, type AdminErrorCode } from './errors.ts'
import { adminListenError } from '../../listening/admin-errors.ts'
import { refuseClient, refuseConnect, refusePipelined } from './client-error.ts'
import { ConnectionLimit, MAX_PIPELINED } from './connection-limit.ts'
import { guard } from './guard.ts'
import { addPage } from './page.ts'
import { addRoutes } from './routes.ts'
import { SecondSocket } from './second-socket.ts'
import { removeStaleSocket } from '../../listening/sockets.ts'
import type { WorkerView } from './view.ts'

/** A whole request must have come by then; a scraper that stalls holds no connection for ever. */
const REQUEST_TIMEOUT_MS = 10_000
/** Its head, and the first one after the connect: clients that have not shown a token, or not sent anything. */
const HEADERS_TIMEOUT_MS = 5000
/** How long a connection may be idle between two requests. */
const KEEP_ALIVE_TIMEOUT_MS = 5000
/** How often Node looks for connections whose time is over. */
const TIMEOUT_CHECK_MS = 1000
/** Characters of a request's path and query. No route needs more. */
const MAX_URL_LENGTH = 2048
const BODY_LIMIT_BYTES = 16 * 1024
/**
 * Whoever may connect (on loopback that is every user of this host) takes one of the worker's descriptors with each connection,
 * and clients need those.
 */
export const MAX_CONNECTIONS = 256
/** While the process is short of descriptors. They are in the reserve that clients may not take. */
const MAX_CONNECTIONS_UNDER_PRESSURE = 32
/** Of the log lines that say that there were too many connections. */
const FULL_LOG_INTERVAL_MS = 60_000
/** What `close` waits for answers that are being written. */
const CLOSE_GRACE_MS = 1000

export interface AdminOptions {
  readonly config: Pick<Config, 'admin'>
  readonly view: WorkerView
  readonly logger: Logger
  /** Bound and listening already; the server owns it from `listen()` on. */
  readonly socket?: OwnedFd | undefined
  /** Whether descriptors are scarce; never, if it is left out. */
  readonly pressed?: (() => boolean) | undefined
}

export interface Admin {
  /**
   * Binds `admin.listen`.
   *
   * @returns the bound address, with the port that the kernel chose for port 0
   * @throws AdminListenError, naming the key and the address
   */
  listen(): Promise<{ address: Address }>
  /** Accepts on one more listening socket, whose file was created again. Owns `fd`. */
  replaceSocket(fd: OwnedFd): void
  /** Accepts no more; resolves when the last request is answered. */
  drain(): Promise<void>
  /** Stops listening and ends every connection, at the latest after a second. Harmless before `listen` and when repeated. */
  close(): Promise<void>
}

/** The admin HTTP server: metrics, health, status, the requests to drain, and the page to look at. */
export function createAdmin({ config, view, logger, socket, pressed }: AdminOptions): Admin {
  const { listen } = config.admin
  const options: FastifyHttpOptions<Server> = {
    loggerInstance: logger.child({ component: 'admin' }),
    // A scrape every few seconds is no news; failures are logged by the error handler.
    logController: new LogController({ disableRequestLogging: true }),
    serverFactory: (handle) =>
      createServer(
        {
          requestTimeout: REQUEST_TIMEOUT_MS,
          keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
          headersTimeout: HEADERS_TIMEOUT_MS,
          connectionsCheckingInterval: TIMEOUT_CHECK_MS,
          // Node would answer with an empty body.
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
  // An expectation that is unknown may be ignored (RFC 9110, section 10.1.1); Node would answer with an empty body.
  app.server.on('checkExpectation', (request, response) => app.server.emit('request', request, response))
  app.server.on('connect', (_request, client: Socket) => refuseConnect(client))
  let leaving = false
  const second = new SecondSocket(app.server, MAX_CONNECTIONS)
  acceptJsonOnly(app)
  app.addHook('onRequest', (request, _reply, done) => {
    const route = request.routeOptions.url
    done(
      checkRequest(request) ??
        guard(config.admin, { method: request.method, route, headers: request.headers }),
    )
  })
  app.addHook('onSend', (_request, reply, _payload, done) => {
    // Who keeps the connection would go on asking a worker that knows nothing any more.
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
        if (socket !== undefined) {
          await app.ready()
          await listenOn(app, socket.release())
          return { address: boundAddress(app, listen) }
        }
        if (listen.kind === 'unix') await removeStaleSocket(listen.path)
        await app.listen(
          listen.kind === 'unix' ? { path: listen.path } : { host: listen.host, port: listen.port },
        )
        // Connecting needs write permission on the file; the token is not the only lock.
        if (listen.kind === 'unix') chmodSync(listen.path, 0o600)
      } catch (error) {
        throw adminListenError(listen, error)
      }
      return { address: boundAddress(app, listen) }
    },
    replaceSocket(fd) {
      if (leaving) fd.close()
      else second.replace(fd)
    },
    async drain() {
      leaving = true
      const ended = second.close()
      // What is being answered keeps its connection; idle ones are closed (net.Server.close, http.Server.close).
      if (app.server.listening) await new Promise<void>((resolve) => app.server.close(() => resolve()))
      await ended
    },
    async close() {
      leaving = true
      void second.close()
      socket?.close()
      const cut = setTimeout(() => app.server.closeAllConnections(), CLOSE_GRACE_MS)
      await app.close()
      clearTimeout(cut)
    },
  }
}

function listenOn(app: FastifyInstance, fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    app.server.once('error', reject)
    app.server.listen({ fd }, () => {
      app.server.off('error', reject)
      resolve()
    })
  })
}

/** Forms and plain text are what a page of another origin may post without asking first; they are refused. */
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
    // Their patterns have parameters, and nothing else that means something to a regular expression.
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
    // RFC 9110, section 15.5.6: a 405 says what is allowed.
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
    return answer(
      reply,
      new AdminError('BATON_ERR_ADMIN_INTERNAL', 'internal error; the log of the broker tells more'),
    )
  })
}

const FASTIFY_CODES: ReadonlyMap<number, AdminErrorCode> = new Map([
  [400, 'BATON_ERR_ADMIN_BAD_REQUEST'],
  [413, 'BATON_ERR_ADMIN_BODY_TOO_LARGE'],
  [415, 'BATON_ERR_ADMIN_MEDIA_TYPE'],
])

function answer(reply: FastifyReply, { code, statusCode, message }: AdminError): FastifyReply {
  // RFC 9110, section 11.6.1: a 401 carries the challenge.
  if (statusCode === 401) reply.header('www-authenticate', 'Bearer')
  return reply.code(statusCode).send({ error: { code, message } })
}

/** Characters of a message that may repeat what the client has sent. */
const MAX_MESSAGE_LENGTH = 512

function checkRequest({ url, raw }: FastifyRequest): AdminError | undefined {
  if (url.length > MAX_URL_LENGTH)
    return new AdminError('BATON_ERR_ADMIN_URI_TOO_LONG', `a path has at most ${MAX_URL_LENGTH} characters`)
  if (raw.httpVersion === '1.1' && raw.headers.host === undefined)
    return new AdminError('BATON_ERR_ADMIN_BAD_REQUEST', 'the Host header is missing')
  return undefined
}

function boundAddress(app: FastifyInstance, asked: Address): Address {
  const bound = app.server.address()
  if (bound === null || typeof bound === 'string') return asked
  return { kind: 'tcp', host: bound.address, port: bound.port }
}
