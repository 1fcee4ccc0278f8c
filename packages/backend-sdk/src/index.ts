export { type AttachableServer, AttachError, type AttachErrorCode } from './attach/index.ts'
export {
  Backend,
  type BackendEvents,
  type BackendState,
  createBackend,
  type DrainOptions,
  type Registered,
} from './backend.ts'
export type { ConnectionInfo } from './connection-info.ts'
export { BackendError, type BackendErrorCode, RegistrationRefused } from './errors.ts'
export type { Logger } from './logger.ts'
export type { BackendOptions } from './options.ts'
