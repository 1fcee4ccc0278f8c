export { type Config, loadConfig, parseConfig } from './config/config.ts'
export { ConfigError } from './config/error.ts'
export { BrokerError, type BrokerErrorCode } from './errors.ts'
export { startWorker, type Worker, type WorkerOptions } from './worker/worker.ts'
