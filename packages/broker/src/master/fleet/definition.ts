import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import type { ServiceConfig } from '../../config/index.ts'
import { BrokerError } from '../../errors.ts'

/** How the processes of a service are started: what a deploy changes, and a restart does not. */
export interface Definition {
  readonly service: string
  /** Program and arguments; the program is looked up in PATH. */
  readonly command: readonly string[]
  /** Added to the environment that every backend gets. */
  readonly env: Readonly<Record<string, string>>
  /** Absolute and free of symbolic links. */
  readonly cwd: string
  /** The same as configured, with its links: for when `cwd` is gone. Absent in the state of an older program. */
  readonly folder?: string | undefined
  /** Of the application; null when the configuration does not say. */
  readonly version: string | null
}

/** A definition under the number that its deploy gave it. A process that is started again gets its own generation's. */
export interface Generation {
  readonly number: number
  readonly definition: Definition
}

/**
 * What `service` says at this moment; undefined when its backends start by themselves. Links in `cwd` are followed
 * now: a release folder behind a `current` link stays the old version's when the link moves on to the new one.
 *
 * @param base folder of the configuration file, which `cwd` is relative to
 * @throws {BrokerError} BATON_ERR_BACKEND_FOLDER
 */
export function define(service: ServiceConfig, base: string): Definition | undefined {
  const { name, command, env } = service
  if (command === null) return undefined
  const folder = resolve(base, service.cwd)
  const version = env['BATON_VERSION'] ?? null
  return { service: name, command, env, cwd: follow(folder, name), folder, version }
}

/** Whether both would start the same thing. The files behind the command may still differ. */
export function sameDefinition(one: Definition, other: Definition): boolean {
  const { folder: _one, ...first } = one
  const { folder: _other, ...second } = other
  return isDeepStrictEqual(first, second)
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
