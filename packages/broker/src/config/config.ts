import { dirname, resolve } from 'node:path'

import type * as z from 'zod'

import type { Address } from './address.ts'
import { crossCheck } from './cross-check.ts'
import { ConfigError, type ConfigProblem } from './error.ts'
import { defaultRuntimeDir, parseFile, readConfigText } from './file.ts'
import { explain, problemsOf } from './problems.ts'
import { schema } from './schema.ts'
import { readSecretFile, type Secret } from './secret.ts'
import { isClosed } from './service-rules.ts'

type Parsed = z.output<typeof schema>

/** A listening socket of the broker. */
export type ListenerConfig = Readonly<Parsed['listeners'][number]>

/** A service and its policies. Every duration is in milliseconds. */
export type ServiceConfig = Readonly<Parsed['services'][string]> & { readonly name: string }

/** A checked configuration: defaults filled in, durations in milliseconds, addresses parsed, secrets read. */
export interface Config {
  /** The file it was read from, as given by the caller. */
  readonly file: string | undefined
  /** Absolute path; created if missing. */
  readonly runtimeDir: string
  readonly drainDeadline: number
  /** A worker that has not answered its master for this many milliseconds is replaced. */
  readonly workerTimeout: number
  /** Of services that have no setting of their own. */
  readonly keepOutput: Parsed['keepOutput']
  readonly admin: { readonly listen: Address; readonly token: Secret | null }
  /** Where the agent checks of load balancers are answered. */
  readonly agentCheck: Extract<Address, { kind: 'tcp' }> | null
  /** Number of connections that the flight recorder keeps; 0 disables it. */
  readonly recorder: number
  readonly listeners: readonly ListenerConfig[]
  /** A Map, because a service may be called "constructor". */
  readonly services: ReadonlyMap<string, ServiceConfig>
  readonly security: {
    /** Never empty: an empty list in the file is replaced by the broker's own uid. */
    readonly allowUids: readonly number[]
    readonly allowGids: readonly number[]
    readonly registrationSecret: Secret | null
  }
}

/**
 * Validates a configuration, fills in defaults, and reads the secret files it names. Relative paths are resolved
 * against the folder of `file`, or the working directory if there is none.
 *
 * @throws ConfigError with all problems found, not just the first
 */
export function parseConfig(json: unknown, { file }: { file?: string } = {}): Config {
  const result = schema.safeParse(json, { error: explain })
  if (!result.success) throw new ConfigError(file, problemsOf(result.error))
  const parsed = result.data
  const base = file === undefined ? process.cwd() : dirname(resolve(file))

  const problems: ConfigProblem[] = []
  const secret = (path: string, name: string | null): Secret | null => {
    if (name === null) return null
    const read = readSecretFile(resolve(base, name))
    if (typeof read !== 'string') return read
    problems.push({ path, message: read })
    return null
  }

  const token = secret('admin.tokenFile', parsed.admin.tokenFile)
  if (token !== null && !/^[\x21-\x7e]+$/.test(token.reveal())) {
    const message = `the token in ${parsed.admin.tokenFile} must be one word of ASCII characters: requests carry it in a header`
    problems.push({ path: 'admin.tokenFile', message })
  }
  const runtimeDir = parsed.runtimeDir === undefined ? defaultRuntimeDir() : resolve(base, parsed.runtimeDir)
  problems.push(...crossCheck(parsed, runtimeDir))
  const config: Config = {
    file,
    runtimeDir,
    drainDeadline: parsed.drainDeadline,
    workerTimeout: parsed.workerTimeout,
    keepOutput: parsed.keepOutput,
    admin: { listen: parsed.admin.listen, token },
    agentCheck: parsed.agentCheck,
    recorder: parsed.recorder,
    listeners: parsed.listeners,
    services: new Map(Object.entries(parsed.services).map(([name, service]) => [name, { ...service, name }])),
    security: {
      allowUids: parsed.security.allowUids.length > 0 ? parsed.security.allowUids : ownUid(),
      allowGids: parsed.security.allowGids,
      registrationSecret: secret('security.registrationSecretFile', parsed.security.registrationSecretFile),
    },
  }
  if (problems.length > 0) throw new ConfigError(file, problems)
  return config
}

/**
 * Reads and validates a configuration file.
 *
 * @throws ConfigError if it is missing, unreadable, not JSON (with line and column), or invalid
 */
export function loadConfig(path: string): Config {
  return parseConfigText(readConfigText(path), path)
}

/**
 * Validates the text of a configuration file.
 *
 * @param path the file: named in errors, and its folder is the base of relative paths
 * @throws ConfigError if it is not JSON (with line and column), or invalid
 */
export function parseConfigText(text: string, path: string): Config {
  return parseConfig(parseFile(text, path), { file: path })
}

function ownUid(): number[] {
  const uid = process.getuid?.()
  return uid === undefined ? [] : [uid]
}

/** Services that connections of a listener may go to; with null if some are rejected. */
function servicesOf({ service, routes }: ListenerConfig): (string | null)[] {
  return [service, ...routes.map((route) => route.service)]
}

/** Settings that are allowed but probably unintended. */
export function warningsOf(config: Config): ConfigProblem[] {
  const used = new Set(config.listeners.flatMap(servicesOf))
  const usedBy = (wanted: ListenerConfig['protocol']) =>
    new Set(config.listeners.filter(({ protocol }) => protocol === wanted).flatMap(servicesOf))
  const [encrypted, plain] = [usedBy('tls'), usedBy('http')]
  const versions = config.listeners.flatMap(versionWarnings(config.services))
  const services = [...config.services.values()].flatMap((service) => {
    const path = `services.${service.name}`
    const found: ConfigProblem[] = []
    if (!used.has(service.name)) found.push({ path, message: 'no listener sends connections here' })
    if (service.holdTimeout < service.ackDeadline) {
      const message = 'is shorter than ackDeadline: a single slow backend can cause rejections'
      found.push({ path: `${path}.holdTimeout`, message })
    }
    if (service.sticky !== 'address' && !plain.has(service.name)) {
      const message = 'has no effect: no listener with the protocol "http" sends connections here'
      found.push({ path: `${path}.sticky.cookie`, message })
    }
    for (const [key, reason] of withoutEffect(service))
      found.push({ path: `${path}.${key}`, message: `has no effect: ${reason}` })
    if (service.healthCheck !== null && encrypted.has(service.name)) {
      const message =
        'uses plain HTTP, which a TLS server does not answer: backends behind a tls listener never become ready'
      found.push({ path: `${path}.healthCheck`, message })
    }
    return found
  })
  return [...services, ...versions]
}

/** Keys of a service that another key makes useless, and why. Those that have their default are not among them. */
function withoutEffect(service: ServiceConfig): [key: string, reason: string][] {
  const { handoff, handBack, parkAfter, command } = service
  const found: [string, string][] = []
  if (parkAfter !== null && (handBack === 'off' || handoff === 'off'))
    found.push([
      'parkAfter',
      `${handoff === 'off' ? 'handoff' : 'handBack'} is "off", so no connection is handed back`,
    ])
  if (command !== null) return found
  const set = {
    instances: service.instances !== 1,
    env: Object.keys(service.env).length > 0,
    envFiles: Object.keys(service.envFiles).length > 0,
    cwd: service.cwd !== '.',
    external: service.external,
    keepOutput: service.keepOutput !== null,
    maxMemory: service.maxMemory !== null,
    restartEvery: service.restartEvery !== null,
  }
  for (const [key, isSet] of Object.entries(set))
    if (isSet) found.push([key, 'the service has no command, so Baton starts no process for it'])
  return found
}

/** Routes to a version that the processes of their service do not have. */
function versionWarnings(services: Config['services']) {
  return ({ routes }: ListenerConfig, index: number): ConfigProblem[] =>
    routes.flatMap(({ service: name, version }, each) => {
      const service = services.get(name ?? '')
      const configured = service?.env['BATON_VERSION']
      if (version === undefined || service === undefined || configured === undefined) return []
      if (!isClosed(service) || configured === version) return []
      const message = `the processes of service "${name}" have the version "${configured}" (BATON_VERSION in its env)`
      return [{ path: `listeners[${index}].routes[${each}].version`, message }]
    })
}
