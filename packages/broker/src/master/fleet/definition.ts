import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { ServiceConfig } from '../../config/config.ts'
import { BrokerError } from '../../errors.ts'
import type { FleetContext } from './context.ts'

/** The environment that a deploy was told to use. Its values may be secret. */
export interface ChosenEnvironment {
  /** Such as `production`. */
  readonly name: string
  readonly variables: Readonly<Record<string, string>>
}

/** How the processes of a service are started. A deploy changes it, a restart does not. */
export interface Definition {
  readonly service: string
  /** Program and arguments; the program is looked up in PATH. */
  readonly command: readonly string[]
  /** Added to the environment that every backend gets. */
  readonly env: Readonly<Record<string, string>>
  /** Absolute and free of symbolic links. */
  readonly cwd: string
  /** As configured, with its links: used when `cwd` is gone. Absent in the state of an older program. */
  readonly folder?: string | undefined
  /** Variables that a deploy has chosen (`--env`), which override `env`. */
  readonly chosen?: ChosenEnvironment | undefined
  /** Of the application; null if the configuration names none. */
  readonly version: string | null
}

/** A definition with the number that its deploy was given. A restarted process keeps its generation. */
export interface Generation {
  readonly number: number
  readonly definition: Definition
}

/**
 * The current definition of `service`; undefined if Baton does not start its backends. Links in `cwd` are resolved now: a release folder
 * behind a `current` link remains the old version's when the link moves to the new one.
 *
 * @param base folder of the configuration file, to which `cwd` is relative
 * @param chosen by a deploy
 * @throws {BrokerError} BATON_ERR_BACKEND_FOLDER
 */
export function define(
  service: ServiceConfig,
  base: string,
  chosen?: ChosenEnvironment,
): Definition | undefined {
  const { name, command, env } = service
  if (command === null) return undefined
  const folder = resolve(base, service.cwd)
  const version = chosen?.variables['BATON_VERSION'] ?? env['BATON_VERSION'] ?? null
  return {
    service: name,
    command,
    env,
    cwd: follow(folder, name),
    folder,
    version,
    ...(chosen && { chosen }),
  }
}

/**
 * Whether both start the same command in the same way, apart from what a deploy has chosen, with the version in it. The files behind the command may
 * still differ.
 */
export function sameDefinition(one: Definition, other: Definition): boolean {
  const { folder: _one, chosen: _chosen, version: _version, ...first } = one
  const { folder: _other, chosen: _others, version: _another, ...second } = other
  return isDeepStrictEqual(first, second)
}

/**
 * Variables that are meant for the master only. A backend that took NOTIFY_SOCKET, LISTEN_FDS or WATCHDOG_USEC for its own would talk to
 * systemd on the master's behalf (sd_notify(3), sd_listen_fds(3)).
 */
const PRIVATE =
  /^BATON_MASTER_|^(?:LISTEN_(?:PID|FDS|FDNAMES|PIDFDID)|WATCHDOG_(?:PID|USEC)|NOTIFY_SOCKET|BATON_VERSION|BATON_FFI)$/

/**
 * The whole environment of one process. The definition's variables override inherited ones, and Baton's override both.
 *
 * @param backend ULID, a new one for each process
 */
export function environmentOf(
  definition: Definition,
  backend: string,
  { env, socket, master }: Pick<FleetContext, 'env' | 'socket' | 'master'>,
): NodeJS.ProcessEnv {
  return {
    ...Object.fromEntries(Object.entries(env).filter(([name]) => !PRIVATE.test(name))),
    ...definition.env,
    ...definition.chosen?.variables,
    BATON_SOCKET: socket,
    BATON_SERVICE: definition.service,
    BATON_BACKEND_ID: backend,
    ...master,
  }
}

function follow(folder: string, service: string): string {
  try {
    return realpathSync(folder)
  } catch (error) {
    throw new BrokerError('BATON_ERR_BACKEND_FOLDER', `services.${service}.cwd: ${String(error)}`, {
      cause: error,
    })
  }
}
