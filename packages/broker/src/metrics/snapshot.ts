import { AggregatorRegistry, type MetricObjectWithValues, type MetricValue } from 'prom-client'

/** The metrics of one process at one moment, as prom-client's JSON: what crosses to another process of the broker. */
export type MetricSnapshot = readonly MetricObjectWithValues<MetricValue<string>>[]

/** Sums series of the same name and labels; buckets of histograms too. */
export function sum(snapshots: readonly MetricSnapshot[]): Promise<MetricSnapshot> {
  return AggregatorRegistry.aggregate(snapshots.map((each) => [...each])).getMetricsAsJSON()
}

/** The text exposition of their sum. */
export function textOf(snapshots: readonly MetricSnapshot[]): Promise<string> {
  return AggregatorRegistry.aggregate(snapshots.map((each) => [...each])).metrics()
}

/** What still holds when the process has ended: counters and histograms. A gauge tells of what is now. */
export function lasting(snapshot: MetricSnapshot): MetricSnapshot {
  return snapshot.filter(({ type }) => isLasting(String(type)))
}

/** In prom-client's JSON a type is its name. */
function isLasting(type: string): boolean {
  return type === 'counter' || type === 'histogram'
}
