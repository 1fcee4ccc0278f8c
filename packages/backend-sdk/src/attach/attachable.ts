import { Server, Socket } from 'node:net'
import { http, https } from '../node-http.ts'
import { AttachError } from './errors.ts'
import type { AttachableServer } from './server-kind.ts'

/** `net.Server` is the base class of all servers in Node and Deno, but not of Bun's http and https servers. */
const CLASSES = [Server, http.Server, https.Server]

/**
 * Checks that `value` can receive client connections.
 *
 * @throws {AttachError} BATON_ERR_NOT_A_SERVER; the message says what the value is and what to pass instead
 */
export function checkAttachable(value: unknown): asserts value is AttachableServer {
  if (!CLASSES.some((kind) => value instanceof kind))
    throw new AttachError('BATON_ERR_NOT_A_SERVER', describe(value))
}

/** Values that are often passed instead of a server, recognized by their members; the first match counts. */
const KNOWN: readonly (readonly [fits: (value: object) => boolean, text: string])[] = [
  [
    (value) => typeof value === 'function' && has(value, 'handle') && has(value, 'listen'),
    'got an Express app: attach http.createServer(app)',
  ],
  [
    (value) => has(value, 'callback') && has(value, 'use') && has(value, 'listen'),
    'got a Koa app: attach http.createServer(app.callback())',
  ],
  [
    (value) => has(value, 'getHttpServer'),
    'got a NestJS app: await app.init(), and attach app.getHttpServer()',
  ],
  [
    (value) => isServer(value, 'server') && has(value, 'inject'),
    'got a Fastify instance: attach app.server, or register the plugin of @baton/backend-sdk/fastify',
  ],
  [(value) => isServer(value, 'listener'), 'got a hapi server: attach server.listener'],
  [(value) => isServer(value, 'httpServer'), 'got a wrapper around an HTTP server: attach its httpServer'],
  [
    (value) => isServer(value, '_server'),
    'got a WebSocket server: attach the HTTP server that it was created with',
  ],
  [(value) => isServer(value, 'server'), 'got a wrapper around a server: attach its server'],
  [
    (value) => has(value, 'handleUpgrade'),
    'got a WebSocket server without an HTTP server: create it with { server }, and attach that server',
  ],
  // After Fastify: its instance is thenable too.
  [(value) => has(value, 'then'), 'got a promise: await it, and attach what it resolves to'],
  [
    (value) => has(value, 'fetch'),
    'got a fetch handler: attach the http.Server that its Node adapter creates',
  ],
  [(value) => value instanceof Socket, 'got a connection: attach the server that it came from'],
  [
    (value) => has(value, 'bind') && has(value, 'addMembership'),
    'got a UDP socket, which has no connections',
  ],
  [
    (value) => typeof value === 'function',
    'got a function: if it handles requests, attach http.createServer(handler)',
  ],
]

function describe(value: unknown): string {
  if (value === undefined || value === null)
    return `got ${value}: is it assigned later, or does the call before it return nothing?`
  if (typeof value !== 'object' && typeof value !== 'function') {
    const text =
      typeof value === 'number'
        ? 'a number: the broker listens, and attach() takes no port'
        : `a ${typeof value}`
    return `got ${text}`
  }
  const known = KNOWN.find(([fits]) => fits(value))
  if (known !== undefined) return known[1]
  const name = nameOf(value)
  return `got ${name === undefined ? 'an object' : `an instance of ${name}`}`
}

function has(value: object, method: string): boolean {
  return typeof read(value, method) === 'function'
}

function isServer(value: object, member: string): boolean {
  return read(value, member) instanceof Server
}

function nameOf(value: object): string | undefined {
  const name: unknown = (read(value, 'constructor') as { name?: unknown } | undefined)?.name
  return typeof name === 'string' && name !== '' && name !== 'Object' ? name : undefined
}

/** A getter of a framework may throw before the framework has begun. */
function read(value: object, member: string): unknown {
  try {
    return Reflect.get(value, member)
  } catch {
    return undefined
  }
}
