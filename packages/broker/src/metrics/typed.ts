import { Counter, Gauge, Histogram, type Registry } from 'prom-client'

/** Label names and their values. prom-client's own types allow labels to be omitted. */
export type Labels = Readonly<Record<string, string>>

export interface TypedCounter<L extends Labels> {
  inc(labels: L, by?: number): void
}

export interface TypedGauge<L extends Labels> {
  set(labels: L, value: number): void
  inc(labels: L, by?: number): void
  dec(labels: L, by?: number): void
  /** Removes the series, instead of setting it to zero. */
  remove(labels: L): void
}

export interface TypedHistogram<L extends Labels> {
  observe(labels: L, value: number): void
  /** Creates the series without an observation. */
  zero(labels: L): void
}

interface Naming<L extends Labels> {
  readonly name: string
  readonly help: string
  readonly labels: readonly (keyof L & string)[]
}

export function counter<L extends Labels>(
  registry: Registry,
  { name, help, labels }: Naming<L>,
): TypedCounter<L> {
  const metric = new Counter({ name, help, labelNames: labels, registers: [registry] })
  return { inc: (values, by = 1) => metric.inc(values, by) }
}

export function gauge<L extends Labels>(
  registry: Registry,
  { name, help, labels }: Naming<L>,
): TypedGauge<L> {
  const metric = new Gauge({ name, help, labelNames: labels, registers: [registry] })
  return {
    set: (values, value) => metric.set(values, value),
    inc: (values, by = 1) => metric.inc(values, by),
    dec: (values, by = 1) => metric.dec(values, by),
    remove: (values) => metric.remove(values),
  }
}

export function histogram<L extends Labels>(
  registry: Registry,
  { name, help, labels, buckets }: Naming<L> & { readonly buckets: readonly number[] },
): TypedHistogram<L> {
  const metric = new Histogram({
    name,
    help,
    labelNames: labels,
    buckets: [...buckets],
    registers: [registry],
  })
  return {
    observe: (values, value) => metric.observe(values, value),
    zero: (values) => metric.zero(values),
  }
}
