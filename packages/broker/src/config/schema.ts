import * as z from 'zod'

import { parseAddress } from './address.ts'
import { duration } from './duration-schema.ts'
import { DEFAULT_ADMIN_ADDRESS } from './file.ts'
import { hostPatternProblem } from './host-pattern.ts'
import { MAX_INSTANCES } from './instances.ts'
import { rate } from './rate.ts'
import { schedule } from './schedule.ts'
import { size } from './size-schema.ts'
import { parseTrustedSource } from './trusted-source.ts'
import { VERSION, VERSION_EXPECTED } from './version.ts'

/** Listener and service names become metric labels, URL segments and command arguments, hence the plain characters. */
export const NAME = /^[a-z0-9][a-z0-9_-]{0,62}$/i
/** No Node process fits into less. */
const MIN_MAX_MEMORY = 16 * 1024 ** 2
const NAME_EXPECTED = 'a name has 1 to 63 letters, digits, "-" or "_", and starts with a letter or digit'

/**
 * Describes a key: what it does and what happens at its limits, one sentence each. Editors show the text, and `npm run docs`
 * writes it into docs/reference/configuration.md.
 */
const describe = <Schema extends z.ZodType>(schema: Schema, ...sentences: readonly string[]) =>
  schema.meta({ description: sentences.join(' ') })

// A `title` names a kind of value, explained under "Kinds of values" in docs/reference/configuration.md.
const name = z.string().regex(NAME, NAME_EXPECTED).meta({ title: 'name' })
const path = z.string().min(1).meta({ title: 'path' })
const version = z.string().regex(VERSION, VERSION_EXPECTED).meta({ title: 'version' })
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

const tcpAddress = address
  .transform((parsed, context) => {
    if (parsed.kind === 'tcp') return parsed
    context.addIssue({ code: 'custom', message: 'needs a TCP address: "host:port" or "[v6]:port"' })
    return z.NEVER
  })
  .meta({ title: 'address' })

const upstreamAddress = address.refine((parsed) => parsed.kind === 'unix' || parsed.port !== 0, {
  error: 'an upstream needs a port other than 0',
})

const hostPattern = z
  .string()
  .transform((text, context) => {
    const pattern = text.toLowerCase()
    const problem = hostPatternProblem(pattern)
    if (problem === undefined) return pattern
    context.addIssue({ code: 'custom', message: problem })
    return z.NEVER
  })
  .meta({ title: 'host pattern' })

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const STICKY_EXPECTED = 'expected "address" or {"cookie": NAME}'

/** Of a header field or a cookie. */
const values = (kind: string, forbidden: readonly string[]) =>
  z
    .record(
      z
        .string()
        .regex(TOKEN, `expected the name of a ${kind}`)
        .refine((text) => !forbidden.includes(text.toLowerCase()), { error: 'has a condition of its own' }),
      z.string().regex(/^[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?$/, 'expected printable characters'),
    )
    .refine((all) => Object.keys(all).length > 0, { error: 'must not be empty' })
    .meta({ minProperties: 1 })

const route = z.strictObject({
  sni: describe(hostPattern.optional(), 'On `tls`: name that the client asks for in its ClientHello.'),
  alpn: describe(
    z.string().min(1).max(255).optional(),
    'On `tls`: protocol that must be among those that the client offers, such as `h2`.',
  ),
  host: describe(hostPattern.optional(), 'On `http`: the `Host` of the request, without its port.'),
  path: describe(
    z
      .string()
      .regex(
        /^\/[\x21\x22\x24-\x3e\x40-\x7e]*$/,
        'a path starts with "/" and contains no spaces, "?" or "#"; write non-ASCII characters as %XX',
      )
      .optional()
      .meta({ title: 'URL path' }),
    'On `http`: beginning of the path, at the border of a segment: `/api` matches `/api` and `/api/users`, and not `/apis`.',
    'The path is compared as the client has written it, neither decoded nor normalised.',
  ),
  header: describe(
    values('header field', ['host', 'cookie'])
      .transform((all) =>
        Object.fromEntries(Object.entries(all).map(([field, value]) => [field.toLowerCase(), value])),
      )
      .optional(),
    'On `http`: fields of the request and the values that they must have; `"*"` is any value. A request that has such a field twice is refused.',
  ),
  cookie: describe(
    values('cookie', []).optional(),
    'On `http`: cookies and the values that they must have; `"*"` is any value. The first cookie of a name counts.',
  ),
  service: describe(name.nullable(), 'Service that receives the connections. `null`: they are rejected.'),
  version: describe(
    version.optional(),
    'Only backends that report this version (`BATON_VERSION`) receive the connections. While none of them is ready, clients are held, as for a',
    'service without backends. Upstreams have no version.',
  ),
})

const trustedSource = z
  .string()
  .transform((text, context) => {
    const source = parseTrustedSource(text)
    if (typeof source !== 'string') return source
    context.addIssue({ code: 'custom', message: source })
    return z.NEVER
  })
  .meta({ title: 'trusted source' })

const proxyProtocol = z.strictObject({
  from: describe(
    z.array(trustedSource).min(1),
    'Peers that must send a PROXY header: networks (`10.0.0.0/8`), addresses, and, on a Unix socket, users (`uid:0`).',
    'One that sends none, or an invalid one, within `peekTimeout` is disconnected. From all other peers, a header is ordinary data.',
  ),
})

const perSource = z.strictObject({
  connections: describe(
    count(1).nullable().default(null),
    'Maximum open connections of one source. Counted like those of [`connections`](#listenerslimitsconnections). `null`: no limit.',
  ),
  rate: describe(
    rate().nullable().default(null),
    'Maximum rate of new connections of one source, in the long run: `50/s`, `10/m` or `100/h`. `null`: no limit.',
  ),
  burst: describe(
    count(1).nullable().default(null),
    'How many connections a source may open at once, after a pause. `null`: as many as `rate` gives in a second, and at least one.',
  ),
})

const limits = z.strictObject({
  connections: describe(
    count(1).nullable().default(null),
    'Maximum open connections of the listener. A connection counts from accept until it is closed, wherever it is: waiting, held, parked or relayed in the',
    'broker, or adopted by a backend in any language. So the count outlives hand-backs, reloads and workers. `null`: no limit.',
  ),
  perSource: describe(
    perSource.nullable().default(null),
    'Limits of each client address: each IPv4 address, and each IPv6 network of 64 bits. `null`: no limits.',
  ),
})

const listener = z.strictObject({
  name: describe(name, 'Unique among listeners. Labels metrics and log lines.'),
  listen: describe(
    address,
    'Where clients connect: `host:port`, `[v6]:port` or `unix:/path`.',
    'Must differ from the address of every other listener and from `admin.listen`.',
    'While the broker is not accepting, the kernel queues up to 4096 clients, or `net.core.somaxconn` if that is lower.',
    'A Unix socket is created with mode 0666; one left behind by a dead process is replaced.',
  ),
  protocol: describe(
    z.enum(['http', 'tls', 'tcp']).default('http'),
    'Protocol that clients use. Without `routes`, Baton does not look at the stream.',
    'The protocol decides how a client is rejected: `503` with `Retry-After` on `http`, a plain close on `tls` and `tcp`.',
    'On `http`, a held client that half-closes before it has sent anything counts as disconnected.',
  ),
  service: describe(
    name.nullable(),
    'Service that receives the connections. Several listeners may use the same one.',
    'With `routes`: the service for connections that no route takes, or that cannot be decided. `null` rejects them: with `404` on `http`,',
    'with the alert `unrecognized_name` on `tls`.',
  ),
  routes: describe(
    z.array(route).max(1000).default([]),
    'Chooses the service by what a connection begins with: the ClientHello on `tls`, the first request on `http`. The first route of which all',
    'conditions are met wins. The bytes are looked at and stay in the socket. See [routes](broker.md#routes).',
    'An `http` request that parsers could read in two ways is refused with `400`.',
  ),
  peekTimeout: describe(
    duration(1).prefault('5s'),
    'How long the broker waits, from accept, for what `routes` and `proxyProtocol` depend on. Then, and after 16 KiB, the connection goes to `service`.',
    'Without these keys it has an effect only while a shift looks for a cookie ([`sticky`](#servicessticky)).',
  ),
  proxyProtocol: describe(
    proxyProtocol.nullable().default(null),
    'Reads the PROXY header, version 1 or 2, of load balancers. Backends see the address in it as `socket.remoteAddress`.',
    '`null`: headers are ordinary data.',
  ),
  limits: describe(
    limits.nullable().default(null),
    'How many connections clients may have, and how fast they may open them. See [client limits](broker.md#client-limits). `null`: no limits.',
  ),
})

const failureLimit = z.strictObject({
  failures: describe(
    count(1).default(8),
    'Number of failed handoffs after which a backend is paused.',
    'A full lane, a lack of descriptors, and refusals by a backend that is draining or full do not count.',
  ),
  window: describe(
    duration(1).prefault('30s'),
    'Period in which the failures are counted. Older ones are forgotten.',
  ),
  pause: describe(
    duration(1).prefault('30s'),
    'How long a paused backend is offered no descriptors. A late ACK ends the pause early. The backend may still receive relays.',
  ),
})

const healthCheck = z.strictObject({
  path: describe(
    z
      .string()
      .regex(
        /^\/[\x21-\x7e]*$/,
        'a path starts with "/" and contains no spaces; write non-ASCII characters as %XX',
      )
      .default('/healthz')
      .meta({ title: 'URL path' }),
    'Path of the request. A complete response with a status from 200 to 399 is healthy.',
  ),
  interval: describe(
    duration(1).prefault('2s'),
    'Time between checks. A check that is due while the previous one is still running is skipped.',
  ),
  timeout: describe(
    duration(1).prefault('1s'),
    'Maximum time from the offer to the end of the response. A check that takes longer has failed.',
  ),
})

const upstream = z.strictObject({
  address: describe(
    upstreamAddress,
    'Where to connect, within `ackDeadline`. Port 0 is refused.',
    'The server sees the broker as its client: no PROXY header is sent.',
    'An upstream that cannot be reached is skipped. While none can be reached, clients are held, and all upstreams are tried four times a second.',
  ),
  weight: describe(
    z.number().positive().max(1000).default(1),
    'Share of the connections, relative to the others.',
  ),
})

const KEEP_EXPECTED = 'expected "off" or an object with "size" and "files"'

const keepOutput = z.union(
  [
    z.enum(['off']),
    z.strictObject({
      size: describe(
        size(64 * 1024).prefault('4MiB'),
        'Maximum size of a file. The next line then goes to a new one, and the oldest is removed if there are more than `files`.',
      ),
      files: describe(count(2).max(1000).default(4), 'Maximum number of files of a service.'),
    }),
  ],
  { error: KEEP_EXPECTED },
)

const service = z.strictObject({
  balance: describe(
    z.enum(['least-connections', 'round-robin', 'p2c', 'source-hash']).default('least-connections'),
    'How a backend is chosen. `least-connections`: lowest load relative to its weight. `round-robin`: in turn, by weight.',
    '`p2c`: the less loaded of two backends drawn at random by weight.',
    "`source-hash`: by the client's IP address, so that a client stays with the same backend. When a backend leaves, only its own",
    'clients move. Clients of a Unix socket are assigned at random by weight.',
  ),
  handoff: describe(
    z.enum(['auto', 'off']).default('auto'),
    '`auto` hands over the descriptor, and relays only if no backend can take it.',
    '`off` relays every connection, to a backend that uses the SDK or to an upstream, so that each byte costs the broker processor time.',
  ),
  holdTimeout: describe(
    duration(0).prefault('30s'),
    'Maximum time, from accept, that a client is held until a backend can take it. Held clients are not read from, and are served in order of arrival.',
    'Then the client is rejected with the reason `hold_timeout`: `503` with `Retry-After` on an `http` listener, a plain close on the',
    'others. With `0s`, clients are not held: a client that no backend can take immediately is rejected.',
    '`baton check` warns about a value below `ackDeadline`, because then a single slow backend can cause rejections.',
  ),
  maxHeld: describe(
    count(0).default(10_000),
    'Maximum number of clients of the service that are held at a time.',
    'Further ones are rejected immediately, with the reason `hold_full`. With `0`, clients are not held.',
    'Each held client uses one descriptor of the broker: keep `RLIMIT_NOFILE` well above this value.',
  ),
  ackDeadline: describe(
    duration(1).prefault('500ms'),
    "How long a backend may take to acknowledge an offer. After that, the broker takes back the offers still in the backend's queue and makes them to",
    'other backends; connections that the backend has already taken stay with it (`maxStuck`).',
    'A missed deadline counts as a failure of the backend (`BackendAckTimeout`), which is then `unresponsive` and not chosen until it answers a heartbeat.',
    'The connection to an upstream, or to a backend for a relay, must also be established within this time. Must be shorter than `tokenTtl`.',
  ),
  tokenTtl: describe(
    duration(1).prefault('5s'),
    'How long the one-time token of an offer is valid. Must be longer than `ackDeadline`.',
    'A backend refuses an offer with an expired token (`TokenExpired`), and the client goes to another backend.',
    'Backends remember used tokens for 2 to 4 times as long, so a high value costs them memory.',
  ),
  maxStuck: describe(
    count(1).default(1024),
    'Maximum number of connections that a backend may have taken without answering within `ackDeadline`.',
    'Until the backend answers or ends, the broker keeps a descriptor of each and offers it to no other backend.',
    'Beyond the limit, the oldest is given up: the broker closes its descriptor and counts the connection as `relinquished`.',
  ),
  handBack: describe(
    z.enum(['drain', 'off']).default('drain'),
    '`drain`: a backend that drains hands its idle HTTP/1.1 connections back to the broker, which offers each of them to another backend when its next',
    'request arrives. Its responses keep these connections open. The backend must offer `handback/1`, as `@baton/backend-sdk` does.',
    'Connections that are relayed, TLS that ends in the backend, HTTP/2, WebSockets and plain TCP do not move.',
    '`off`, and with `handoff: "off"`: a connection stays with the backend that adopted it until it ends.',
    'Needed if the app reads a PROXY header, or anything else that comes once per connection.',
  ),
  parkAfter: describe(
    duration(0).nullable().default(null),
    'How long an HTTP/1.1 connection may be idle in a backend before the backend hands it back. The broker then keeps it *parked*, unread, for the rest of',
    "the server's `keepAliveTimeout`, and offers it like a new connection when its next request arrives.",
    '`"0ms"` parks it after each response, so that each request goes to the backend that `balance` chooses at that moment, at the cost of one handoff per request.',
    'A parked connection uses one descriptor of the broker. `null`: connections are handed back only when a backend drains.',
  ),
  handBackWindow: describe(
    count(1).max(1024).default(64),
    'Maximum number of connections that a backend may have handed back without an answer from the broker.',
    'Further ones stay with the backend, which continues to serve them, until there is room.',
  ),
  ticketRotation: describe(
    duration(1000).nullable().prefault('12h'),
    'How often the broker makes a new key for TLS session tickets. All backends of the service that end TLS get the same keys, so that a client resumes',
    'its session in any of them, and after a deploy ([TLS](../how-to/tls.md#session-resumption)). The previous key stays valid until the next rotation.',
    '`null`: no keys, and a session resumes only in the process that it began in.',
  ),
  sticky: describe(
    z
      .union(
        [
          z.enum(['address']),
          z.strictObject({
            cookie: describe(
              z.string().regex(TOKEN, STICKY_EXPECTED),
              'Name of the cookie. A client that has no such cookie is told by its address, and so is every client of a listener whose protocol is not `http`.',
              'While a shift is in force, the broker looks at the request for it, for up to `peekTimeout`, and leaves it in the socket.',
            ),
          }),
        ],
        { error: STICKY_EXPECTED },
      )
      .default('address'),
    'How a client is recognised while a [shift or a canary](../how-to/deploy.md#a-share-of-the-connections) divides the connections, so that it stays',
    'with the same version: by its address, or by a cookie.',
  ),
  drainDeadline: describe(
    duration(0).nullable().default(null),
    'How long connections of this service may take to finish, wherever the [`drainDeadline`](#draindeadline) of the broker applies otherwise.',
    'A stop of the broker takes as long as the longest of all services. `null`: as for the broker.',
  ),
  failureLimit: describe(
    failureLimit.prefault({}),
    'When a failing backend is excluded for a while (`paused`). One success resets the count.',
  ),
  command: describe(
    z.array(z.string().min(1)).min(1).nullable().default(null),
    'Program and arguments of the backends that Baton starts, without a shell. The program is looked up in `PATH`.',
    'A backend that exits is restarted. `null`: you start the backends yourself.',
  ),
  external: describe(
    z.boolean().default(false),
    'Whether processes that Baton did not start may also register for a service with a `command`. `false`: they are refused',
    '(`NotManaged`), and so are leftovers of an earlier deploy or of another master. `true`: you replace them yourself, and `baton deploy` ignores',
    'them. Also set it if the `command` delegates to a process that is not its descendant (`docker run`). It has no effect',
    'without a `command`.',
  ),
  instances: describe(
    count(1).max(MAX_INSTANCES).default(1),
    'Number of processes to run. A reload starts missing ones, and drains and stops surplus ones.',
    'What [`baton scale`](../how-to/deploy.md#more-or-fewer-instances) has set stays in force until a reload finds another number here than before.',
  ),
  env: describe(
    z.record(z.string().min(1), z.string()).default({}),
    "Environment variables of these processes, in addition to the master's. Set `BATON_VERSION` here to the version to display.",
    'Baton always sets `BATON_SOCKET`, `BATON_SERVICE`, `BATON_BACKEND_ID`, `BATON_MASTER_PID`, `BATON_MASTER_START` and `BATON_MASTER_LIFELINE`',
    'itself.',
  ),
  envFiles: describe(
    z.record(name, path).default({}),
    'Files of variables for `baton deploy --env NAME`, by name: they override `env` from that deploy to the next one. Without an entry, the file is `.env.NAME` in `cwd`.',
    'See [Environments](../how-to/deploy.md#environments).',
  ),
  cwd: describe(
    path.default('.'),
    'Working directory of these processes, relative to the folder of the configuration file. Symbolic links in it are resolved when a deploy starts, and not again when a process is restarted.',
  ),
  keepOutput: describe(
    keepOutput.nullable().default(null),
    'How much of the output of these processes is kept. `null`: as for the broker ([`keepOutput`](#keepoutput)).',
  ),
  maxMemory: describe(
    size(MIN_MAX_MEMORY).nullable().default(null),
    'Resident memory above which a process of this service is replaced: its successor becomes ready first, then it drains, as in a deploy.',
    'One process of the service at a time. The processes are looked at once a second. `null`: no limit.',
    'See [Replace processes that grow](../how-to/deploy.md#replace-processes-that-grow-or-are-old).',
  ),
  restartEvery: describe(
    schedule().nullable().default(null),
    'When processes of this service are replaced in the same way: at this age (`12h`), or at the times of a cron expression (`0 4 * * *`) in the time zone of the broker. `null`: never.',
  ),
  minHealthy: describe(
    duration(0).prefault('1s'),
    'In a deploy, how long a new process must stay ready without interruption before it replaces an old one.',
    'If it is not ready within 60 s, or does not stay ready, the deploy stops and the old process keeps running.',
    'With `0s`, it takes over as soon as it is ready.',
  ),
  healthCheck: describe(
    healthCheck.nullable().prefault(null),
    'HTTP check of each registered backend. Uses plain HTTP whatever `protocol` the listeners have.',
    'After three failures in a row, a backend is `unhealthy` and not chosen until a check succeeds. Before its first success it is',
    '`starting`, and not chosen either. `null`: a backend is ready once it has registered. Upstreams are not checked.',
  ),
  upstreams: describe(
    z.array(upstream).prefault([]),
    'Addresses to relay to, for servers that do not use the SDK.',
    'Used when no backend can take a descriptor, so always if the service has no backends.',
  ),
})

const admin = z.strictObject({
  listen: describe(
    address.prefault(DEFAULT_ADMIN_ADDRESS),
    'Address that serves metrics, health, status, the API and the status page.',
    'An address that other hosts can reach is refused unless `admin.tokenFile` is set. A Unix socket is created with mode 0600.',
  ),
  tokenFile: describe(
    secretFile,
    'File, with mode 0600, that contains the bearer token. Every request must then carry it, except `/healthz`, `/readyz` and the files of',
    'the status page, which prompts for it.',
    '`null`: anyone who can connect may query, drain and reload.',
  ),
})

const id = z.int().min(0).max(0xffff_fffe)
const security = z.strictObject({
  allowUids: describe(
    z.array(id).default([]),
    "Users whose processes may register; others are refused (`UidNotAllowed`). Empty: only the broker's own user.",
    "A list that is not empty must include the broker's own user if its processes are to register, including those that Baton starts.",
  ),
  allowGids: describe(
    z.array(id).default([]),
    'Groups whose processes may also register. Only the primary group of a process counts.',
  ),
  registrationSecretFile: describe(
    secretFile,
    'File, with mode 0600, that contains a secret that backends must also present (`BATON_SECRET`). Without it, a backend is refused (`SecretMismatch`).',
  ),
})

/**
 * `baton.json`. The input side becomes the JSON Schema for editors and docs/reference/configuration.md; the output side is what the rest of
 * Baton uses.
 */
export const schema = z
  .strictObject({
    $schema: describe(
      z.string().optional(),
      'JSON Schema for editors, which use it to complete and check the file. Baton ignores it.',
    ),
    runtimeDir: describe(
      path.optional(),
      'Folder of the sockets for backends and operators, relative to the folder of the configuration file.',
      'It is created with mode 0700, or 0711 if `security` admits other users or groups.',
      "Default: `$XDG_RUNTIME_DIR/baton`, or else `baton-<uid>` in the system's temporary folder.",
      'The broker does not start if the folder belongs to another user, is writable by others, or is in use by another broker.',
      "A parent folder that others may write to (including a group, unless it is root's, or the user's own with gid equal to uid) must be sticky,",
      'and everything on the path to `runtimeDir` must belong to this user or root.',
      'Backends that you start yourself use the default folder: set `BATON_SOCKET=<runtimeDir>/control.sock` for them.',
      '`<runtimeDir>/control.sock` may have at most 107 bytes. A reload cannot change `runtimeDir`.',
    ),
    drainDeadline: describe(
      duration(0).prefault('30s'),
      'How long connections in flight may take to finish: when the broker stops, when a backend is drained (`baton drain` can set another',
      'time), when a managed backend is replaced, and, for relays, after a reload.',
      'Remaining connections are then cut. With `0s`, they are cut immediately.',
    ),
    workerTimeout: describe(
      duration(1000).prefault('5s'),
      'How long the worker may fail to answer its master before it is considered stuck: stopped, in an endless loop, or blocked in a system call.',
      'The master starts another worker on the same sockets and kills the stuck one with SIGKILL. Connections that backends have are not affected;',
      'clients that the stuck worker relayed are lost, and new ones wait in the kernel until the next worker accepts.',
      'Time during which the worker gets no processor, or the master itself does not run, does not count.',
    ),
    keepOutput: describe(
      keepOutput.prefault({}),
      'How much of the output of managed backends is kept for `baton logs`, for each service, in `<runtimeDir>/output`. See',
      '[kept output](managed-backends.md#kept-output). `"off"`: it is only in the log of the broker.',
    ),
    admin: describe(admin.prefault({}), 'The admin server.'),
    agentCheck: describe(
      tcpAddress.nullable().prefault(null),
      'Address that answers the agent check of HAProxy (`agent-check`) with one line: `up ready N%`, where N falls with the share of backends that are ready and',
      'with the time that clients are held, `drain` while the broker drains, or `down #REASON` when a service has no ready backend.',
      'See [many hosts](../how-to/many-hosts.md#agent-check). It says nothing else, and every client that can connect gets the answer. `null`: none.',
    ),
    recorder: describe(
      count(0).max(100_000).default(4096),
      'Number of recent connections whose steps each worker records, for `baton trace` and the status page.',
      'The newest replaces the oldest. Memory for all of them is allocated at startup. `0` disables recording.',
    ),
    listeners: describe(z.array(listener).min(1, 'needs at least one listener'), 'The listening sockets.'),
    services: describe(
      z
        .record(name, service)
        .refine((all) => Object.keys(all).length > 0, { error: 'needs at least one service' })
        .meta({ minProperties: 1 }),
      'The services by name. Backends register under the name (`BATON_SERVICE`), and metrics are labelled with it.',
      '`baton check` warns about a service that no listener uses.',
    ),
    security: describe(security.prefault({}), 'Which processes may register as backends.'),
  })
  .meta({ title: 'Baton configuration' })

/** The part of JSON Schema that zod writes for the configuration, in the shape and order of the file itself. */
export type JsonSchema = z.core.JSONSchema.BaseSchema

/** Annotations of VS Code's JSON language server: not errors in this file. */
const SYNTAX = { allowComments: true, allowTrailingCommas: true }

/** The configuration file as JSON Schema (draft 2020-12), published as `@baton/broker/baton.schema.json`. */
export function jsonSchema(): JsonSchema {
  return { ...z.toJSONSchema(schema, { io: 'input' }), ...SYNTAX }
}
