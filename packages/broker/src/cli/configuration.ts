import type { Config } from '../config/config.ts'

/**
 * Reads and checks a configuration file. The schema is loaded with the first one: most of a command's code serves to check a file.
 *
 * @throws ConfigError if it is missing, unreadable or invalid
 */
export async function loadConfig(file: string): Promise<Config> {
  return (await import('../config/config.ts')).loadConfig(file)
}
