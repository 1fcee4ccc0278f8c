import * as z from 'zod'

import { parseAddress } from './address.ts'
import { duration } from './duration.ts'

/** Listener and service names become metric labels, URL segments and command arguments, so they stay plain. */
export const NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/i
const NAME_EXPECTED = 'a name has 1 to 63 letters, digits, "-" or "_" and begins with a letter or digit'

/**
 * Says what a key does and what happens at its limits, a sentence each. Editors show it, and docs/reference/configuration.md is made of it
 * (`npm run docs:configuration`).
 */
const describe = <Schema extends z.ZodType>(schema: Schema, ...sentences: readonly string[]) =>
  schema.meta({ description: sentences.join(' ') })

// What a kind of value is called, its title, is explained under "Kinds of values" in docs/reference/configuration.md.
const name = z.string().regex(NAME, NAME_EXPECTED).meta({ title: 'name' })
const path = z.string().min(1).meta({ title: 'path' })
const secretFile = z.string().min(1).nullable().default(null).meta({ title: 'secret file' })
const count = (minimum: number) => z.int().min(minimum)

const address = z
  .string()
  .transform((text, context) => {
    const parsed = parseAddress(text)
    if (typeof parsed !== 'string') return parsed
    context.addIssue({ code: 'custom', message: parsed })
    return z.NEVER
  })
  .meta({ title: 'address' })

const upstreamAddress = address.refine((parsed) => parsed.kind === 'unix' || parsed.port !== 0, {
  error: 'an upstream needs a port other than 0',
})

const listener = z.strictObject({
  name: describe(name, 'Unique among listeners; labels metrics and logs.'),
  listen: describe(
    address,
    'Where clients connect: `host:port`, `[v6]:port` or `unix:/path`.',
    'No two listeners may have the same address, nor may one have that of `admin.listen`.',
    'While the broker cannot accept, up to 4096 clients wait in the kernel, or as many as `net.core.somaxconn` allows.',
    'A Unix socket gets mode 0666; one that a dead process has left behind is replaced.',
  ),
  protocol: describe(
    z.enum(['http', 'tls', 'tcp']).default('http'),
    'What clients speak. Baton does not read the stream.',
    'It decides how a client is rejected: `503` with `Retry-After` on `http`, a plain close on the others.',
    'And on `http`, one that waits and half-closes before it has sent anything counts as gone.',
  ),
  service: describe(name, 'The service that gets the connections. Several listeners may lead to one.'),
})

const failureLimit = z.strictObject({
  failures: describe(
    count(1).default(8),
    'How many failed handoffs pause a backend.',
    'Want of room, and refusals of a backend that drains or is full, do not count.',
  ),
  window: describe(
    duration(1).prefault('30s'),
    'Within what time they must fail. Older failures are forgotten.',
  ),
  pause: describe(
    duration(1).prefault('30s'),
    'How long no descriptor is offered to the backend then, unless a late ACK comes. It may still be given relays.',
  ),
})

const healthCheck = z.strictObject({
  path: describe(
    z
      .string()
      .regex(/^\/[\x21-\x7e]*$/, 'a path begins with "/" and has no spaces; other characters are written %XX')
      .default('/healthz')
      .meta({ title: 'URL path' }),
    'Path of the request. A whole answer with a status from 200 to 399 is healthy.',
  ),
  interval: describe(
    duration(1).prefault('2s'),
    'Time from one check to the next. One that is due while another is on its way is left out.',
  ),
  timeout: describe(
    duration(1).prefault('1s'),
    "Time for one answer, from the offer to the answer's end. One that takes longer has failed.",
  ),
})

const upstream = z.strictObject({
  address: describe(
    upstreamAddress,
    'Where to connect, within `ackDeadline`; port 0 is refused.',
    'The server sees the broker as its client: nothing is put before the bytes.',
    'One that does not answer is passed over. While none does, clients wait, and all are asked again four times a second.',
  ),
  weight: describe(
    z.number().positive().max(1000).default(1),
    'Share of the connections, relative to the others.',
  ),
})

const service = z.strictObject({
  balance: describe(
    z.enum(['least-connections', 'round-robin', 'p2c', 'source-hash']).default('least-connections'),
    'How a backend is chosen. `least-connections`: lowest load for its weight. `round-robin`: in turn, by weight.',
    '`p2c`: the less loaded of two drawn by weight.',
    "`source-hash`: by the client's IP address, so that a client stays with its backend; when a backend goes, only its own",
    'clients move, and clients of a Unix socket are drawn by weight.',
  ),
  handoff: describe(
    z.enum(['auto', 'off']).default('auto'),
    '`auto` hands the descriptor over, and relays only when that fails.',
    '`off` never hands a descriptor over: every connection is relayed, to a backend of the SDK or to an upstream, and each',
    'byte of it costs the broker processor time.',
  ),
  holdTimeout: describe(
    duration(0).prefault('30s'),
    'How long a client may wait for a backend, from its accept. Clients wait unread, and are served in order of arrival.',
    'Then it is rejected, for the reason `hold_timeout`: `503` with `Retry-After` on an `http` listener, a plain close on the',
    'others. With `0s` nobody waits: whom no backend takes at once is rejected.',
    '`baton check` warns of less than `ackDeadline`: one slow backend is then enough for a client to be rejected.',
  ),
  maxHeld: describe(
    count(0).default(10_000),
    'How many clients of the service may wait at a time.',
    'One more is rejected at once, for the reason `hold_full`. With `0` nobody waits.',
    'Each costs the broker a descriptor: keep `RLIMIT_NOFILE` well above it.',
  ),
  ackDeadline: describe(
    duration(1).prefault('500ms'),
    "Time for a backend to acknowledge an offer. Then the broker takes back what is still in the backend's queue and offers it to",
    'others; what the backend has taken stays with it (`maxStuck`).',
    'That counts as a failure of the backend (`BackendAckTimeout`), and it is `unresponsive`, so not chosen, until it answers a heartbeat.',
    'An upstream, or a backend that is to get a relay, must be connected within this time, too. Shorter than `tokenTtl`.',
  ),
  tokenTtl: describe(
    duration(1).prefault('5s'),
    'How long the one-time token of an offer is good for. Longer than `ackDeadline`.',
    'A backend refuses what it takes later (`TokenExpired`), and the client goes to another one.',
    'Backends remember spent tokens for 2 to 4 times as long, so a long one costs them memory.',
  ),
  maxStuck: describe(
    count(1).default(1024),
    'How many connections a backend may have taken past `ackDeadline` without an answer.',
    'Until it answers or ends, the broker keeps a descriptor of each, and offers none of them to anybody else.',
    'One more, and the oldest is relinquished: the broker lets go of it for good and counts it as `relinquished`.',
  ),
  failureLimit: describe(
    failureLimit.prefault({}),
    'When a backend that fails is left alone for a while (`paused`). One success clears the count.',
  ),
  command: describe(
    z.array(z.string().min(1)).min(1).nullable().default(null),
    'Program and arguments of a backend that Baton starts, without a shell; the program is looked up in `PATH`.',
    'One that ends is started again. `null`: backends are yours to start.',
  ),
  external: describe(
    z.boolean().default(false),
    'Whether processes that Baton did not start may register for a service with a `command` as well. `false`: they are refused',
    '(`NotManaged`), as is whatever an earlier deploy or another master left behind. `true`: they are yours to replace; `baton deploy` does not',
    'count them. Set it, too, where the `command` hands the work to a process that does not descend from it (`docker run`). It has no effect',
    'without a `command`.',
  ),
  instances: describe(
    count(1).max(1024).default(1),
    'How many of them run. A reload starts what is missing; what is too many is drained and stopped.',
  ),
  env: describe(
    z.record(z.string().min(1), z.string()).default({}),
    "Environment variables added to the master's. `BATON_VERSION` here is the version that is shown.",
    'Baton sets `BATON_SOCKET`, `BATON_SERVICE`, `BATON_BACKEND_ID`, `BATON_MASTER_PID`, `BATON_MASTER_START` and `BATON_MASTER_LIFELINE`,',
    'whatever this says.',
  ),
  cwd: describe(
    path.default('.'),
    'Their working directory, relative to the folder of the configuration file. Links in it are followed when a deploy starts, and not again when a process is restarted.',
  ),
  minHealthy: describe(
    duration(0).prefault('1s'),
    'How long a new one must stay ready without a break, in a deploy, before it gets the place of an old one.',
    'One that is not ready within 60 s, or does not stay so, stops the deploy, and the old one stays.',
    'With `0s` it takes over as soon as it is ready.',
  ),
  healthCheck: describe(
    healthCheck.nullable().prefault(null),
    'HTTP check of each registered backend, in plain HTTP whatever clients speak.',
    'After three failures in a row it is `unhealthy`, so not chosen, until one check succeeds; before its first success it is',
    '`starting`, and not chosen either. `null`: a backend is ready once it has registered. Upstreams are not checked.',
  ),
  upstreams: describe(
    z.array(upstream).prefault([]),
    'Plain addresses to relay to, for servers without the SDK.',
    'They are used when no backend can take a descriptor; with `upstreams` alone, always.',
  ),
})

const admin = z.strictObject({
  listen: describe(
    address.prefault('127.0.0.1:9180'),
    'Where metrics, health, status, the API and the page are served.',
    'An address that other hosts can reach is refused without `admin.tokenFile`. A Unix socket gets mode 0600.',
  ),
  tokenFile: describe(
    secretFile,
    'File, of mode 0600, with the bearer token that every request must then carry, but for `/healthz`, `/readyz` and the files of',
    'the page, which asks for it.',
    '`null`: who can connect may ask, drain and reload.',
  ),
})

const id = z.int().min(0).max(0xffff_fffe)
const security = z.strictObject({
  allowUids: describe(
    z.array(id).default([]),
    "Users whose processes may register; others are refused: `UidNotAllowed`. Empty means the broker's own user.",
    'A list that is not empty must name that one, too, if its processes are to register, those that Baton starts included.',
  ),
  allowGids: describe(
    z.array(id).default([]),
    'Groups whose processes may register as well. Only the primary group of a process counts.',
  ),
  registrationSecretFile: describe(
    secretFile,
    'File, of mode 0600, with a secret that a backend must show besides (`BATON_SECRET`). Without it, it is refused: `SecretMismatch`.',
  ),
})

/**
 * `baton.json`. Its input side is what editors get as JSON Schema, and what docs/reference/configuration.md is made of; its output side is
 * what the rest of Baton reads.
 */
export const schema = z
  .strictObject({
    $schema: describe(
      z.string().optional(),
      'For editors, which then complete and check the file. Baton does not read it.',
    ),
    runtimeDir: describe(
      path.optional(),
      'Folder of the sockets on which backends and operators come, relative to that of the configuration file.',
      'It is made with mode 0700, or 0711 where `security` lets other users or groups in.',
      "Without it, `$XDG_RUNTIME_DIR/baton`, or `baton-<uid>` in the system's temporary folder.",
      'One that belongs to another user, or that others may write to, stops the start; so does a second broker in the same one.',
      'A folder above it that others may write to (a group, too, unless it is that of root or has the number of this user) must be sticky,',
      'and what is on the way to `runtimeDir` must belong to this user or root.',
      'Backends that you start yourself look for it in the default place: set `BATON_SOCKET=<runtimeDir>/control.sock` for them.',
      '`<runtimeDir>/control.sock` has at most 107 bytes. A reload cannot change it.',
    ),
    drainDeadline: describe(
      duration(0).prefault('30s'),
      'How long a drain waits for what is in flight: that of a broker that stops, of a backend (`baton drain` can name another',
      'time), of a managed backend whose place is taken, and of relays after a reload.',
      'What is left then is cut. With `0s` that is at once.',
    ),
    workerTimeout: describe(
      duration(1000).prefault('5s'),
      'How long the worker may leave its master without an answer. Then it is stuck: stopped, in an endless loop, or in a system call that blocks.',
      'The master starts another on the same sockets and ends the stuck one with SIGKILL. Connections that backends have are not affected;',
      'clients that the stuck worker held or relayed are lost, and new ones wait in the kernel until the next worker accepts.',
      'Time in which the machine gives the worker no processor, or in which the master itself does not run, does not count.',
    ),
    admin: describe(admin.prefault({}), 'The admin server.'),
    recorder: describe(
      count(0).max(100_000).default(4096),
      'Of how many of the last connections each worker keeps the steps, for `baton trace` and the page.',
      'The newest takes the place of the oldest. Memory for all of them is taken at the start. `0` keeps none.',
    ),
    listeners: describe(z.array(listener).min(1, 'needs at least one listener'), 'The listening sockets.'),
    services: describe(
      z
        .record(name, service)
        .refine((all) => Object.keys(all).length > 0, { error: 'needs at least one service' })
        .meta({ minProperties: 1 }),
      'The services by name. Backends register for a name (`BATON_SERVICE`), and it labels metrics.',
      '`baton check` warns of one to which no listener leads.',
    ),
    security: describe(security.prefault({}), 'Who may register a backend.'),
  })
  .meta({ title: 'Baton configuration' })

/** As much of JSON Schema as zod writes for the configuration. Shape and order are those of the file itself. */
export type JsonSchema = z.core.JSONSchema.BaseSchema

/** Annotations of VS Code's JSON language server: not errors in this file. */
const SYNTAX = { allowComments: true, allowTrailingCommas: true }

/** The configuration file as JSON Schema (draft 2020-12), published as `@baton/broker/baton.schema.json`. */
export function jsonSchema(): JsonSchema {
  return { ...z.toJSONSchema(schema, { io: 'input' }), ...SYNTAX }
}
