import { dirname } from 'node:path'
import { type Config, parseConfigText } from '../config/config.ts'
import { define } from './fleet/definition.ts'
import type { FleetConfig } from './fleet/fleet.ts'
import type { ListeningSockets } from './listening-sockets.ts'

/** A configuration and the text it was read from. */
export interface Settings {
  readonly file: string
  readonly text: string
  readonly config: Config
}

/** The active configuration and the sockets open for it, which change together. Owner of the sockets. */
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

  /** How managed backends are started and stopped. */
  get fleetConfig(): FleetConfig {
    const { file, config } = this.#settings
    const { services, drainDeadline } = config
    return { services, base: dirname(file), drainDeadline }
  }

  replace(settings: Settings, sockets: ListeningSockets): void {
    this.#settings = settings
    this.#sockets = sockets
  }

  /** Idempotent. @param isLeft see `ListeningSockets.closeListeners` */
  close(isLeft = false): void {
    this.#sockets.close(isLeft)
  }
}

/**
 * @throws {ConfigError}
 * @throws {BrokerError} BATON_ERR_BACKEND_FOLDER
 */
export function readSettings(file: string, text: string): Settings {
  const config = parseConfigText(text, file)
  // Fail on a missing `cwd` before anything is started.
  for (const service of config.services.values()) define(service, dirname(file))
  return { file, text, config }
}

/** Settings that were active before exec. A `cwd` that has gone since does not matter, so it is not checked. */
export function restoreSettings(file: string, text: string): Settings {
  return { file, text, config: parseConfigText(text, file) }
}
