import { dirname } from 'node:path'
import { type Config, parseConfigText } from '../config/config.ts'
import { define } from './fleet/definition.ts'
import type { FleetConfig } from './fleet/fleet.ts'
import type { ListeningSockets } from './listening-sockets.ts'

/** A configuration, with the text that it was read from. */
export interface Settings {
  readonly file: string
  readonly text: string
  readonly config: Config
}

/**
 * The configuration that is in force and the sockets that are open for it; they change together. Owner of the sockets.
 */
export class ActiveConfig {
  #settings: Settings
  #sockets: ListeningSockets

  constructor(settings: Settings, sockets: ListeningSockets) {
    this.#settings = settings
    this.#sockets = sockets
  }

  get settings(): Settings {
    return this.#settings
  }

  get config(): Config {
    return this.#settings.config
  }

  get sockets(): ListeningSockets {
    return this.#sockets
  }

  /** With what managed backends are started and ended. */
  get fleetConfig(): FleetConfig {
    const { file, config } = this.#settings
    const { services, drainDeadline } = config
    return { services, base: dirname(file), drainDeadline }
  }

  replace(settings: Settings, sockets: ListeningSockets): void {
    this.#settings = settings
    this.#sockets = sockets
  }

  /** A second call does nothing. */
  close(): void {
    this.#sockets.close()
  }
}

/** @throws {ConfigError} */
export function readSettings(file: string, text: string): Settings {
  const config = parseConfigText(text, file)
  // Before anything is begun with it.
  for (const service of config.services.values()) define(service, dirname(file))
  return { file, text, config }
}

/** Of what was in force already: what has changed around it since does not matter. */
export function restoreSettings(file: string, text: string): Settings {
  return { file, text, config: parseConfigText(text, file) }
}
