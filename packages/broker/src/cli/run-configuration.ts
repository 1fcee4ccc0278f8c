import { join, dirname, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { ConfigError, type ConfigProblem } from '../config/error.ts'
import { parseFile, readConfigText } from '../config/file.ts'
import { drainDeadlineOf } from '../config/service-rules.ts'
import { logicalFolder, throughLinks } from '../config/working-folder.ts'

/** The service of the app of `baton run`. */
export const RUN_SERVICE = 'app'

/** Unless the command line or a file says otherwise, in ms. */
const DRAIN_DEADLINE_MS = 30_000

type Settings = Readonly<Record<string, unknown>>

/** Settings that `baton run` takes from a configuration file. Keys and values are those of the file, not checked yet. */
export interface FileSettings {
  readonly file: string
  readonly broker: Settings
  readonly admin: Settings
  readonly app: Settings
  /** Of the app's service. */
  readonly env: Settings
  /** The services of the app's further ports, such as `app-9000`. */
  readonly ports: Settings
  /** Settings in the file that have no effect, and why. */
  readonly unused: readonly ConfigProblem[]
}

const DECIDED_OF_BROKER = {
  runtimeDir: 'baton run makes a folder of its own',
  listeners: "the app's listen(port), or --listen, says where to listen",
}

const DECIDED_OF_APP = {
  command: 'the command is what follows --',
  cwd: 'the app runs in the working directory',
}

/**
 * Reads the settings of the broker and of the app. Files that they name are relative to the folder of this one; those returned are absolute.
 *
 * @throws ConfigError if it cannot be read, or is not JSON
 */
export function readFileSettings(file: string): FileSettings {
  const unused: ConfigProblem[] = []
  const objectAt = (path: string, value: unknown = {}): Settings => {
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Settings
    throw new ConfigError(file, [{ path, message: 'must be an object' }])
  }
  const without = (settings: Settings, prefix: string, decided: Readonly<Record<string, string>>): Settings =>
    Object.fromEntries(
      Object.entries(settings).filter(([key]) => {
        if (!Object.hasOwn(decided, key)) return true
        unused.push({ path: `${prefix}${key}`, message: decided[key] ?? '' })
        return false
      }),
    )
  const absolute = (value: unknown): unknown =>
    typeof value === 'string' ? resolve(dirname(resolve(file)), value) : value
  const withFile = (settings: Settings, key: string): Settings =>
    key in settings ? { ...settings, [key]: absolute(settings[key]) } : settings

  const { services, admin, security, ...broker } = objectAt('', parseFile(readConfigText(file), file))
  const { [RUN_SERVICE]: given, ...others } = objectAt('services', services)
  const { env, envFiles, ...app } = objectAt(`services.${RUN_SERVICE}`, given)
  const files = Object.entries(objectAt(`services.${RUN_SERVICE}.envFiles`, envFiles))
  const isPort = (name: string) => new RegExp(`^${RUN_SERVICE}-\\d+$`).test(name)
  for (const name of Object.keys(others))
    if (!isPort(name))
      unused.push({ path: `services.${name}`, message: `the app's service is "${RUN_SERVICE}"` })
  return {
    file,
    broker: {
      ...without(broker, '', DECIDED_OF_BROKER),
      ...(security !== undefined && {
        security: withFile(objectAt('security', security), 'registrationSecretFile'),
      }),
    },
    admin: withFile(objectAt('admin', admin), 'tokenFile'),
    app: {
      ...without(app, `services.${RUN_SERVICE}.`, DECIDED_OF_APP),
      envFiles: Object.fromEntries(files.map(([name, path]) => [name, absolute(path)])),
    },
    env: objectAt(`services.${RUN_SERVICE}.env`, env),
    ports: Object.fromEntries(Object.entries(others).filter(([name]) => isPort(name))),
    unused,
  }
}

/** Decisions of the command line, and of `baton run`. */
export interface Chosen {
  /** Of the broker: sockets and the generated configuration. */
  readonly folder: string
  /** Addresses, by name of the listener. */
  readonly listeners: Readonly<Record<string, string>>
  readonly command: readonly string[]
  readonly cwd: string
  readonly instances: number | undefined
  /** In ms. */
  readonly drainDeadline: number | undefined
}

/**
 * The content of the configuration file of the broker.
 *
 * @param settings those of a file, which the command line overrides
 * @throws ConfigError if one of these is invalid
 */
export async function runConfiguration(chosen: Chosen, settings: FileSettings | undefined): Promise<object> {
  const { folder, command, cwd, instances, drainDeadline } = chosen
  const env: Record<string, unknown> = { ...settings?.env }
  const config = {
    drainDeadline: DRAIN_DEADLINE_MS,
    ...settings?.broker,
    ...(drainDeadline !== undefined && { drainDeadline }),
    runtimeDir: folder,
    admin: { listen: `unix:${join(folder, 'admin.sock')}`, ...settings?.admin },
    listeners: Object.entries(chosen.listeners).map(([name, listen]) => ({
      name,
      listen,
      protocol: 'http',
      service: RUN_SERVICE,
    })),
    services: {
      ...settings?.ports,
      [RUN_SERVICE]: {
        ...settings?.app,
        ...(drainDeadline !== undefined && { drainDeadline }),
        ...(instances !== undefined && { instances }),
        command,
        cwd,
        env,
      },
    },
  }
  env['BATON_MASTER_SOCKET'] = join(folder, 'master.sock')
  env['BATON_DRAIN_DEADLINE'] = String(await deadlineIn(config, settings))
  const { NODE_OPTIONS = process.env['NODE_OPTIONS'] } = env
  // Another type is an error of the schema.
  const options = typeof NODE_OPTIONS === 'string' ? [NODE_OPTIONS] : []
  env['NODE_OPTIONS'] = [...options, `--import=${preload()}`].filter((option) => option !== '').join(' ')
  return config
}

/** In ms. The schema is most of the code that the command would load: only settings of a file need it. */
async function deadlineIn(
  config: { readonly drainDeadline: unknown },
  settings: FileSettings | undefined,
): Promise<number> {
  if (settings === undefined) return Number(config.drainDeadline)
  const { parseConfig } = await import('../config/config.ts')
  const checked = parseConfig(config, settings)
  const app = checked.services.get(RUN_SERVICE)
  return app === undefined ? checked.drainDeadline : drainDeadlineOf(app, checked)
}

/** A URL, because NODE_OPTIONS is split at the spaces that a path may have. */
function preload(): string {
  const file = fileURLToPath(import.meta.resolve('@baton/backend-sdk/register'))
  const cwd = process.cwd()
  return pathToFileURL(throughLinks(file, logicalFolder(process.env, cwd), cwd)).href
}
