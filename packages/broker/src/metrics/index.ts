export { droppedLines } from './dropped-lines.ts'
export * from './labels.ts'
export { Metrics } from './metrics.ts'
export { lasting, type MetricSnapshot, sum } from './snapshot.ts'
