import { type BrokerPlace, locateBroker } from '../config/file.ts'

/**
 * Where the running broker answers that uses this configuration file. Works with an invalid file too, so that the operator can see what the
 * broker does after a bad edit. Only a file that has a token, or no valid `admin.listen`, is checked whole: the schema is most of the code that a command would load.
 *
 * @throws ConfigError if it is missing, unreadable, not JSON, or does not say where
 */
export async function locate(file: string): Promise<BrokerPlace> {
  return locateBroker(file) ?? (await import('../config/config.ts')).loadConfig(file)
}
