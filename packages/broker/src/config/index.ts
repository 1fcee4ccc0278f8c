export { formatAddress, isLoopback, type Address } from './address.ts'
export {
  loadConfig,
  locateRuntimeDir,
  parseConfig,
  parseConfigText,
  parseParts,
  readConfigText,
  readConfigTextAtOnce,
  type Config,
  type ListenerConfig,
  type ServiceConfig,
  isClosed,
  type Membership,
} from './config.ts'
export { duration, formatDuration, parseDuration } from './duration.ts'
export { ConfigError, type ConfigProblem, errnoOf } from './error.ts'
export { jsonSchema } from './schema.ts'
export { Secret } from './secret.ts'
export { warningsOf } from './warnings.ts'
export { nearMiss } from './near-miss.ts'
