import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BackendError } from './errors.ts'
import { type Logger, stderrLogger } from './logger.ts'
import { MAX_VERSION } from './protocol/json-members.ts'

/** Options of `createBackend`. Those with a variable can be set in the environment instead. Unknown keys are refused. */
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
const silent: Logger = { info() {}, warn() {}, error() {} }

/** @throws {BackendError} BATON_ERR_NO_SERVICE, BATON_ERR_INVALID_OPTION */
export function resolveOptions(options: BackendOptions, env: NodeJS.ProcessEnv): ResolvedOptions {
  for (const key of Object.keys(options)) {
    if (Object.hasOwn(OPTIONS, key)) continue
    const known = Object.keys(OPTIONS).join(', ')
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      `unknown option ${JSON.stringify(key)}, wanted one of ${known}`,
    )
  }
  const service = options.service ?? env['BATON_SERVICE']
  if (service === undefined || service === '') throw new BackendError('BATON_ERR_NO_SERVICE')
  const weight = options.weight ?? 1
  if (!(weight > 0 && weight <= MAX_WEIGHT)) {
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      `weight is ${weight}, wanted a number above 0 and at most ${MAX_WEIGHT}`,
    )
  }
  const version = options.version ?? env['BATON_VERSION'] ?? null
  if (version !== null && version.length > MAX_VERSION) {
    throw new BackendError(
      'BATON_ERR_INVALID_OPTION',
      `version has ${version.length} characters, wanted at most ${MAX_VERSION}`,
    )
  }
  const socket = options.socket ?? env['BATON_SOCKET']
  return {
    socket: socket ?? join(defaultRuntimeDir(env), 'control.sock'),
    socketIsDefault: socket === undefined,
    service,
    version,
    weight,
    secret: options.secret ?? env['BATON_SECRET'] ?? null,
    logger: options.logger === false ? silent : (options.logger ?? stderrLogger),
  }
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
