import { AggregatorRegistry, type MetricObjectWithValues, type MetricValue } from 'prom-client'

/** The metrics of one process at one moment, as prom-client's JSON. Sent between processes of the broker. */
export type MetricSnapshot = readonly MetricObjectWithValues<MetricValue<string>>[]

/** Sums series of the same name and labels, including histogram buckets. */
export function sum(snapshots: readonly MetricSnapshot[]): Promise<MetricSnapshot> {
  return AggregatorRegistry.aggregate(snapshots.map((each) => [...each])).getMetricsAsJSON()
}

/** The text exposition of their sum. */
export function textOf(snapshots: readonly MetricSnapshot[]): Promise<string> {
  return AggregatorRegistry.aggregate(snapshots.map((each) => [...each])).metrics()
}

/** The metrics that remain valid after the process has ended: counters and histograms, but not gauges. */
export function lasting(snapshot: MetricSnapshot): MetricSnapshot {
  return snapshot.filter(({ type }) => isLasting(String(type)))
}

/** In prom-client's JSON, a type is given by name. */
function isLasting(type: string): boolean {
  return type === 'counter' || type === 'histogram'
}
