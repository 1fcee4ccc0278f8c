// The types of `@baton/backend-sdk` from an app's point of view: what must compile does, and what must not is marked. An
// unnecessary mark is an error as well.
import * as http from 'node:http'
import * as http2 from 'node:http2'
import * as https from 'node:https'
import * as net from 'node:net'
import * as tls from 'node:tls'
import {
  Backend,
  BackendError,
  type BackendErrorCode,
  type BackendOptions,
  type BackendState,
  type ConnectionInfo,
  createBackend,
  type Logger,
  RegistrationRefused,
} from '@baton/backend-sdk'
import baton, { type BatonPluginOptions } from '@baton/backend-sdk/fastify'
import {
  decodeProxyHeader,
  encodeFrame,
  type Frame,
  FrameDecoder,
  PROTOCOL_VERSION,
  ulidFromBytes,
} from '@baton/backend-sdk/protocol'
import Fastify from 'fastify'
import { pino } from 'pino'
import { same } from './same.ts'

// Every option may be left out, and unknown ones are errors.
createBackend()
createBackend({})
const backend = createBackend({ socket: '/run/baton/control.sock', service: 'web', version: '1', weight: 2 })
same<Backend, typeof backend>(true)
// @ts-expect-error: a service has a name, not a number
createBackend({ service: 7 })
// @ts-expect-error: no such option
createBackend({ servise: 'web' })
// @ts-expect-error: leave an option out instead of passing undefined
createBackend({ service: undefined })

// Loggers: pino's and Fastify's unchanged, `false` for silence, but not `console`, whose arguments are the other way round.
createBackend({ logger: pino() })
createBackend({ logger: Fastify().log })
createBackend({ logger: false })
const mine: Logger = { info: () => {}, warn: () => {}, error: () => {} }
createBackend({ logger: mine })
// @ts-expect-error: `true` is not a logger
createBackend({ logger: true })

// Every kind of server; calls can be chained.
same<Backend, ReturnType<typeof backend.attach>>(true)
backend.attach(http.createServer())
backend.attach(https.createServer())
backend.attach(tls.createServer())
backend.attach(net.createServer())
backend.attach(http2.createSecureServer())
backend.attach(http2.createServer())
backend.attach(Fastify().server)
backend.attach(http.createServer(), { address: { address: '127.0.0.1', family: 'IPv4', port: 80 } })
// @ts-expect-error: the server, not the app
backend.attach(Fastify())
// @ts-expect-error: a server is required
backend.attach()

same<Promise<void>, ReturnType<typeof backend.ready>>(true)
void backend.ready({ signal: AbortSignal.timeout(1) })
// @ts-expect-error: a signal, not a time
void backend.ready({ timeout: 1 })
void backend.drain({ deadline: 1000 })
void backend.drain({ deadline: '30s' })
// @ts-expect-error: milliseconds or text
void backend.drain({ deadline: new Date() })
same<Promise<void>, ReturnType<typeof backend.close>>(true)

same<BackendState, 'idle' | 'registering' | 'registered' | 'draining' | 'closed'>(true)
same<string | null, typeof backend.id>(true)
// @ts-expect-error: read-only for the app
backend.state = 'closed'

// Events have the arguments documented in the README.
backend.on('adopt', (socket, connection) => {
  same<net.Socket, typeof socket>(true)
  same<ConnectionInfo, typeof connection>(true)
})
backend.on('connected', ({ id, slot }) => same<[string, string], [typeof id, typeof slot]>(true))
backend.on('disconnected', (error) => same<Error | undefined, typeof error>(true))
backend.on('drain', (reason) => same<string, typeof reason>(true))
backend.on('reject', (reason) => {
  if (reason === 'TokenExpired') return
  // @ts-expect-error: no such reason
  if (reason === 'TokenExpird') return
})

// Metadata of a connection exists for adopted sockets only.
const connection = backend.connection(new net.Socket())
same<ConnectionInfo | undefined, typeof connection>(true)
// @ts-expect-error: it may be undefined
void connection.id
if (connection !== undefined) {
  same<'handoff' | 'relay', typeof connection.via>(true)
  same<number, typeof connection.acceptedAt>(true)
  // @ts-expect-error: set by the broker, read-only
  connection.listener = 'other'
}

// Errors are told apart by their code.
const failure: unknown = new BackendError('BATON_ERR_NO_SERVICE')
if (failure instanceof BackendError) same<BackendErrorCode, typeof failure.code>(true)
if (failure instanceof RegistrationRefused)
  same<[string, boolean], [typeof failure.reason, typeof failure.retry]>(true)
// @ts-expect-error: no such code
void new BackendError('BATON_ERR_NO_SERVISE')

// The Fastify plugin takes the SDK's options and one more; the instance has the backend.
const options: BatonPluginOptions & BackendOptions = { service: 'web', drainDeadline: '5s' }
void Fastify().register(baton, options)
// @ts-expect-error: no such option
void Fastify().register(baton, { deadline: '5s' })
const app = Fastify()
same<Backend, typeof app.baton>(true)

// The protocol: frames are typed in both directions.
same<1, typeof PROTOCOL_VERSION>(true)
same<readonly Frame[] | Frame[], ReturnType<FrameDecoder['push']> | readonly Frame[]>(true)
same<Buffer, ReturnType<typeof encodeFrame>>(true)
same<string, ReturnType<typeof ulidFromBytes>>(true)
const decoded = decodeProxyHeader(Buffer.alloc(0))
same<number | undefined, NonNullable<typeof decoded>['length'] | undefined>(true)
// @ts-expect-error: bytes, not text
decodeProxyHeader('PROXY TCP4')
