export * from './labels.ts'
export { Metrics } from './metrics.ts'
