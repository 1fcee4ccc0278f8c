export {
  type AttachableServer,
  AttachError,
  type AttachErrorCode,
  type GrpcInjector,
  type GrpcServer,
} from './attach/index.ts'
export {
  type AttachOptions,
  Backend,
  type BackendEvents,
  type BackendState,
  createBackend,
  type DrainOptions,
  type Registered,
} from './backend.ts'
export type { ConnectionInfo, ResumedState } from './connection-info.ts'
export { BackendError, type BackendErrorCode, RegistrationRefused } from './errors.ts'
export type { Logger } from './logger.ts'
export { MigrationError, type MigrationErrorCode, type MigrationErrorCounts } from './migrate/errors.ts'
export type { SchemaOptions } from './migrate/options.ts'
export type { RawMigration } from './migrate/raw.ts'
export type { BackendOptions } from './options.ts'
