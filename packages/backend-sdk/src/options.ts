import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { BackendError } from './errors.ts'
import { type Logger, stderrLogger } from './logger.ts'
import { MAX_SECRET, MAX_SERVICE, MAX_VERSION } from './protocol/json-members.ts'

/** Options of `createBackend`. Those with a variable can be set in the environment instead; an empty variable counts as not set. Unknown keys are refused. */
export interface BackendOptions {
  /** Path of the broker's control socket. Default: `BATON_SOCKET`, else `control.sock` in the broker's default runtime folder. */
  socket?: string
  /** Name of the service to register for. Default: `BATON_SERVICE`; one of them is required. */
  service?: string
  /** Shown in status and logs, at most 128 characters. Default: `BATON_VERSION`. */
  version?: string
  /** Share of the connections relative to the service's other backends: above 0, at most 1000. Default: 1. */
  weight?: number
  /** Content of the broker's `security.registrationSecretFile`, if that is configured. Default: `BATON_SECRET`. */
  secret?: string
  /** Receives the SDK's log; pino and Fastify's `app.log` fit. Default: one line per event on stderr. `false`: no log. */
  logger?: Logger | false
}

export interface ResolvedOptions {
  readonly socket: string
  /** Neither the option nor BATON_SOCKET was set. */
  readonly socketIsDefault: boolean
  readonly service: string
  readonly version: string | null
  readonly weight: number
  readonly secret: string | null
  readonly logger: Logger
}

const OPTIONS: Readonly<Record<keyof BackendOptions, true>> = {
  socket: true,
  service: true,
  version: true,
  weight: true,
  secret: true,
  logger: true,
}

const MAX_WEIGHT = 1000
const LEVELS = ['info', 'warn', 'error'] as const satisfies readonly (keyof Logger)[]
const silent: Logger = { info() {}, warn() {}, error() {} }

/**
 * Checks types and lengths as the broker does: after a HELLO that it cannot read, the SDK would dial again and again.
 *
 * @throws {BackendError} BATON_ERR_NO_SERVICE, BATON_ERR_INVALID_OPTION
 */
export function resolveOptions(options: BackendOptions, env: NodeJS.ProcessEnv): ResolvedOptions {
  for (const key of Object.keys(options)) {
    if (Object.hasOwn(OPTIONS, key)) continue
    throw invalid(`unknown option ${JSON.stringify(key)}, wanted one of ${Object.keys(OPTIONS).join(', ')}`)
  }
  const service = options.service ?? set(env['BATON_SERVICE'])
  if (service === undefined || service === '') throw new BackendError('BATON_ERR_NO_SERVICE')
  const weight = options.weight ?? 1
  if (typeof weight !== 'number' || !(weight > 0 && weight <= MAX_WEIGHT))
    throw invalid(`weight is ${inspect(weight)}, wanted a number above 0 and at most ${MAX_WEIGHT}`)
  const socket = options.socket ?? set(env['BATON_SOCKET'])
  if (socket === '') throw invalid('socket is empty, wanted a path')
  const secret = options.secret ?? set(env['BATON_SECRET'])
  const { logger } = options
  if (logger && !LEVELS.every((level) => typeof logger[level] === 'function'))
    throw invalid(`logger has no methods ${LEVELS.join(', ')}, wanted a logger such as pino, or false`)
  return {
    socket: textOf('socket', socket) ?? join(defaultRuntimeDir(env), 'control.sock'),
    socketIsDefault: socket === undefined,
    service: textOf('service', service, MAX_SERVICE) ?? '',
    version: textOf('version', options.version ?? set(env['BATON_VERSION']), MAX_VERSION) ?? null,
    weight,
    secret: textOf('secret', secret, MAX_SECRET) ?? null,
    logger: logger === false ? silent : (logger ?? stderrLogger),
  }
}

const set = (variable: string | undefined) => (variable === '' ? undefined : variable)

const invalid = (message: string) => new BackendError('BATON_ERR_INVALID_OPTION', message)

/** Programs without types pass other values. The message does not show the value: it may be a secret. */
function textOf(key: string, value: string | undefined, most = Infinity): string | undefined {
  if (value === undefined) return undefined
  if (typeof value !== 'string') throw invalid(`${key} is a ${typeof value}, wanted a string`)
  if (value.length <= most) return value
  throw invalid(`${key} has ${value.length} characters, wanted at most ${most}`)
}

/**
 * The default `runtimeDir` of a broker that runs as the same user. Must match the broker's own rule; a relative
 * XDG_RUNTIME_DIR is ignored, as the XDG base directory specification requires.
 */
function defaultRuntimeDir(env: NodeJS.ProcessEnv): string {
  const xdg = env['XDG_RUNTIME_DIR']
  if (xdg?.startsWith('/') === true) return join(xdg, 'baton')
  return join(tmpdir(), `baton-${process.getuid?.() ?? 'user'}`)
}
