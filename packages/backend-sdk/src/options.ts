import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BackendError } from './errors.ts'
import { type Logger, stderrLogger } from './logger.ts'
import { MAX_VERSION } from './protocol/json-members.ts'

/** What `createBackend` takes. Everything can come from the environment instead. */
export interface BackendOptions {
  /** Path of the broker's control socket. Default: `BATON_SOCKET`, then the socket in the default runtime folder. */
  socket?: string
  /** The service to register for. Default: `BATON_SERVICE`. */
  service?: string
  /** Shown in status and logs, at most 128 characters. Default: `BATON_VERSION`. */
  version?: string
  /** Share of the connections against other backends of the service, above 0 up to 1000. Default: 1. */
  weight?: number
  /** What the broker's `security.registrationSecretFile` holds, when it is set. Default: `BATON_SECRET`. */
  secret?: string
  /** Default: one line each on stderr. `false`: silent. Takes pino and Fastify's `app.log` as they are. */
  logger?: Logger | false
}

export interface ResolvedOptions {
  readonly socket: string
  readonly service: string
  readonly version: string | null
  readonly weight: number
  readonly secret: string | null
  readonly logger: Logger
}

const MAX_WEIGHT = 1000
const silent: Logger = { info() {}, warn() {}, error() {} }

/** @throws {BackendError} BATON_ERR_NO_SERVICE, BATON_ERR_INVALID_OPTION */
export function resolveOptions(options: BackendOptions, env: NodeJS.ProcessEnv): ResolvedOptions {
  const service = options.service ?? env['BATON_SERVICE']
  if (service === undefined || service === '') throw new BackendError('BATON_ERR_NO_SERVICE')
  const weight = options.weight ?? 1
  if (!(weight > 0 && weight <= MAX_WEIGHT)) {
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      `weight is ${weight}, wanted above 0 up to ${MAX_WEIGHT}`,
    )
  }
  const version = options.version ?? env['BATON_VERSION'] ?? null
  if (version !== null && version.length > MAX_VERSION) {
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      `version has ${version.length} characters, wanted at most ${MAX_VERSION}`,
    )
  }
  return {
    socket: options.socket ?? env['BATON_SOCKET'] ?? join(defaultRuntimeDir(env), 'control.sock'),
    service,
    version,
    weight,
    secret: options.secret ?? env['BATON_SECRET'] ?? null,
    logger: options.logger === false ? silent : (options.logger ?? stderrLogger),
  }
}

/**
 * Where a broker of the same user puts its sockets when `runtimeDir` is not configured. The broker's rule, to the letter:
 * a relative XDG_RUNTIME_DIR is to be ignored (XDG base directory specification).
 */
function defaultRuntimeDir(env: NodeJS.ProcessEnv): string {
  const xdg = env['XDG_RUNTIME_DIR']
  if (xdg?.startsWith('/') === true) return join(xdg, 'baton')
  return join(tmpdir(), `baton-${process.getuid?.() ?? 'user'}`)
}
