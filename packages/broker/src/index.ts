export { type Config, ConfigError, loadConfig, parseConfig } from './config/index.ts'
export { BrokerError, type BrokerErrorCode } from './errors.ts'
export { startWorker, type Worker, type WorkerOptions } from './worker/worker.ts'
