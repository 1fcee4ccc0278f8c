import * as z from 'zod'

import { parseAddress } from './address.ts'
import { duration } from './duration.ts'

/** Listener and service names become metric labels, URL segments and command arguments, so they stay plain. */
export const NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/i
const NAME_EXPECTED = 'a name has 1 to 63 letters, digits, "-" or "_" and begins with a letter or digit'

const name = z.string().regex(NAME, NAME_EXPECTED)
const file = z.string().min(1).nullable().default(null)
const count = (minimum: number) => z.int().min(minimum)
const describe = <Schema extends z.ZodType>(description: string, schema: Schema) =>
  schema.meta({ description })

const address = z.string().transform((text, context) => {
  const parsed = parseAddress(text)
  if (typeof parsed !== 'string') return parsed
  context.addIssue({ code: 'custom', message: parsed })
  return z.NEVER
})

const upstreamAddress = address.refine((parsed) => parsed.kind === 'unix' || parsed.port !== 0, {
  error: 'an upstream needs a port other than 0',
})

const listener = z.strictObject({
  name: describe('Name of the listener, unique among listeners.', name),
  listen: describe('Address: "host:port", "[v6]:port" or "unix:/path".', address),
  protocol: describe(
    'What clients speak; decides how a connection is rejected.',
    z.enum(['http', 'tls', 'tcp']).default('http'),
  ),
  service: describe('The service that gets the connections.', name),
})

const failureLimit = z.strictObject({
  failures: describe('How many failed handoffs pause a backend.', count(1).default(8)),
  window: describe('The time within which they are counted.', duration(1).prefault('30s')),
  pause: describe('How long the backend is then left alone.', duration(1).prefault('30s')),
})

const healthCheck = z.strictObject({
  path: describe(
    'Path of the request; an answer of 200 to 399 is healthy.',
    z
      .string()
      .regex(/^\/[\x21-\x7e]*$/, 'a path begins with "/" and has no spaces; other characters are written %XX')
      .default('/healthz'),
  ),
  interval: describe('Time from one check to the next.', duration(1).prefault('2s')),
  timeout: describe('Time for one answer, to its end.', duration(1).prefault('1s')),
})

const upstream = z.strictObject({
  address: describe('Address to connect to.', upstreamAddress),
  weight: describe(
    'Share of the connections, relative to the others.',
    z.number().positive().max(1000).default(1),
  ),
})

const service = z.strictObject({
  balance: describe(
    'How a backend is chosen.',
    z.enum(['least-connections', 'round-robin', 'p2c', 'source-hash']).default('least-connections'),
  ),
  handoff: describe('"off" never hands a descriptor over.', z.enum(['auto', 'off']).default('auto')),
  holdTimeout: describe(
    'How long a connection waits for a backend before it is rejected.',
    duration(0).prefault('30s'),
  ),
  maxHeld: describe('How many connections may wait at a time.', count(0).default(10_000)),
  ackDeadline: describe('Time for a backend to acknowledge an offer.', duration(1).prefault('500ms')),
  tokenTtl: describe(
    'How long a one-time token is good for; longer than ackDeadline.',
    duration(1).prefault('5s'),
  ),
  maxStuck: describe(
    'How many taken and unacknowledged connections a backend may have.',
    count(1).default(1024),
  ),
  failureLimit: describe('When a backend that fails is left alone.', failureLimit.prefault({})),
  command: describe(
    'Program and arguments of a backend that Baton starts.',
    z.array(z.string().min(1)).min(1).nullable().default(null),
  ),
  instances: describe('How many of them run.', count(1).max(1024).default(1)),
  env: describe('Environment added to theirs.', z.record(z.string().min(1), z.string()).default({})),
  cwd: describe(
    'Their working directory, relative to the configuration file.',
    z.string().min(1).default('.'),
  ),
  minHealthy: describe('How long a new one must stay ready before it counts.', duration(0).prefault('1s')),
  healthCheck: describe(
    'HTTP check of each backend, in plain HTTP whatever clients speak; three failures in a row and it is not chosen until one succeeds.',
    healthCheck.nullable().prefault(null),
  ),
  upstreams: describe('Plain addresses to relay to, without the SDK.', z.array(upstream).prefault([])),
})

const admin = z.strictObject({
  listen: describe('Address of the admin server.', address.prefault('127.0.0.1:9180')),
  tokenFile: describe('File with the bearer token of the admin server, mode 0600.', file),
})

const id = z.int().min(0).max(0xffff_fffe)
const security = z.strictObject({
  allowUids: describe(
    'Users whose processes may register; empty means the user of the broker.',
    z.array(id).default([]),
  ),
  allowGids: describe('Groups whose processes may register as well.', z.array(id).default([])),
  registrationSecretFile: describe('File with the secret that a backend must show, mode 0600.', file),
})

/** `baton.json`. Its input side is what editors get as JSON Schema, its output side is what the rest of Baton reads. */
export const schema = z
  .strictObject({
    $schema: describe('For editors; Baton does not read it.', z.string().optional()),
    runtimeDir: describe('Folder of the control socket.', z.string().min(1).optional()),
    drainDeadline: describe('How long a drain waits for connections to finish.', duration(0).prefault('30s')),
    admin: describe('The admin server.', admin.prefault({})),
    recorder: describe(
      'Of how many of the last connections each worker keeps the steps; 0 of none.',
      count(0).max(100_000).default(4096),
    ),
    listeners: describe('The listening sockets.', z.array(listener).min(1, 'needs at least one listener')),
    services: describe(
      'The services by name.',
      z
        .record(name, service)
        .refine((all) => Object.keys(all).length > 0, { error: 'needs at least one service' }),
    ),
    security: describe('Who may register a backend.', security.prefault({})),
  })
  .meta({ title: 'Baton configuration' })
