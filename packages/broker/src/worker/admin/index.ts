export { createAdmin, type Admin, type AdminOptions } from './server.ts'
export { AdminError, AdminListenError, type AdminErrorCode } from './errors.ts'
export type {
  BackendStatus,
  BrokerStatus,
  DrainResult,
  ListenerStatus,
  ServiceStatus,
  Status,
  WorkerView,
} from './view.ts'
