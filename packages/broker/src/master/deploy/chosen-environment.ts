import { resolve } from 'node:path'
import type { ServiceConfig } from '../../config/config.ts'
import { readEnvFile } from '../../config/env-file.ts'
import { NAME } from '../../config/schema.ts'
import { BrokerError } from '../../errors.ts'
import type { ChosenEnvironment } from '../fleet/definition.ts'

/**
 * Reads the variables of an environment: from the file that the configuration names, or else from `.env.NAME` in the working directory of the
 * service.
 *
 * @param base folder of the configuration file
 * @throws {BrokerError} BATON_ERR_ENV_FILE
 */
export function readChosen(
  { name: service, envFiles, cwd }: Pick<ServiceConfig, 'name' | 'envFiles' | 'cwd'>,
  base: string,
  name: string,
): ChosenEnvironment {
  if (!NAME.test(name)) throw unusable(`${JSON.stringify(name)} is no name of an environment`)
  const named = Object.hasOwn(envFiles, name) ? envFiles[name] : undefined
  const file = readEnvFile(named === undefined ? resolve(base, cwd, `.env.${name}`) : resolve(base, named))
  if (file.ok) return { name, variables: file.variables }
  const known = Object.keys(envFiles)
  const hint =
    named === undefined && known.length > 0 ? `; envFiles of ${service} has: ${known.join(', ')}` : ''
  throw unusable(`${file.problem}${hint}`)
}

function unusable(why: string): BrokerError {
  return new BrokerError('BATON_ERR_ENV_FILE', why)
}
