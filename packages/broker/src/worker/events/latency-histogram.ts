import type { Percentiles } from '../../api/events.ts'

/** Buckets per power of two: a resolution of 6 %. */
const PARTS = 16
const PART_BITS = 4
/** 2^27 microseconds are more than two minutes. Longer times count as this. */
const MAX_MICROSECONDS = 2 ** 27 - 1
const BUCKETS = indexOf(MAX_MICROSECONDS) + 1

/** Counts of latencies since the start. An observation is one addition; percentiles are computed from two snapshots. */
export class LatencyHistogram {
  readonly #counts = new Uint32Array(BUCKETS)

  /** @param milliseconds since accept */
  observe(milliseconds: number): void {
    const index = indexOf(Math.min(MAX_MICROSECONDS, Math.max(0, milliseconds * 1000)))
    this.#counts[index] = (this.#counts[index] as number) + 1
  }

  snapshot(): Uint32Array {
    return this.#counts.slice()
  }
}

/** Percentiles of the latencies observed between two snapshots, in milliseconds; null if there are none. */
export function percentiles(from: Uint32Array | undefined, to: Uint32Array): Percentiles | null {
  // The counts wrap around, and so does their difference.
  const counts = to.map((count, index) => count - (from?.[index] ?? 0))
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (total === 0) return null
  const at = (share: number) => {
    const rank = Math.ceil(total * share)
    let seen = 0
    const index = counts.findIndex((count) => (seen += count) >= rank)
    return middleOf(index) / 1000
  }
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99) }
}

/** Whole microseconds up to 15 have one bucket each; from there each power of two has 16. */
function indexOf(microseconds: number): number {
  const whole = microseconds | 0
  if (whole < PARTS) return whole
  const power = 31 - Math.clz32(whole)
  return (power - PART_BITS + 1) * PARTS + ((whole >>> (power - PART_BITS)) & (PARTS - 1))
}

function middleOf(index: number): number {
  if (index < PARTS) return index
  const width = 2 ** (Math.floor(index / PARTS) - 1)
  return (PARTS + (index % PARTS)) * width + width / 2
}
