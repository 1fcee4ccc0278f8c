import type { Config, ServiceConfig } from './config.ts'
import { ConfigError, type ConfigProblem } from './error.ts'

/**
 * Refuses, by name, what the schema knows and this version does not serve: a key that is read and then ignored
 * would let a service run without what its owner asked for.
 *
 * @throws ConfigError
 */
export function refuseUnsupported(config: Config): void {
  const problems = [...config.services.values()].flatMap(unsupported)
  if (problems.length > 0) throw new ConfigError(config.file, problems)
}

const MANAGED = 'managed backends are not supported by this version'

function unsupported(service: ServiceConfig): ConfigProblem[] {
  const found: [key: string, asked: boolean, why: string][] = [
    ['command', service.command !== null, MANAGED],
    ['instances', service.instances !== 1, MANAGED],
    ['env', Object.keys(service.env).length > 0, MANAGED],
    ['cwd', service.cwd !== '.', MANAGED],
    ['minHealthy', service.minHealthy !== 1000, MANAGED],
    ['healthCheck', service.healthCheck !== null, 'health checks are not supported by this version'],
  ]
  return found
    .filter(([, asked]) => asked)
    .map(([key, , message]) => ({ path: `services.${service.name}.${key}`, message }))
}
