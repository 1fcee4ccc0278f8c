// Millions of values in little memory: counts in buckets of 2 % each, which can be saved, and added to those of an earlier run.
const BUCKETS_PER_DOUBLING = 32

export class Histogram {
  /** Bucket -> count. @type {Map<number, number>} */
  #buckets = new Map()
  count = 0
  max = 0

  /** @param {number} value @param {number} times */
  add(value, times = 1) {
    const bucket = Math.floor(Math.log2(Math.max(value, 1)) * BUCKETS_PER_DOUBLING)
    this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + times)
    this.count += times
    this.max = Math.max(this.max, value)
  }

  /** The upper edge of the bucket. @param {number} share 0 to 1 */
  quantile(share) {
    let left = this.count * share
    for (const bucket of [...this.#buckets.keys()].toSorted((a, b) => a - b)) {
      left -= this.#buckets.get(bucket)
      if (left <= 0) return Math.min(this.max, 2 ** ((bucket + 1) / BUCKETS_PER_DOUBLING))
    }
    return this.max
  }

  toJSON() {
    return { max: this.max, buckets: [...this.#buckets] }
  }

  /** Adds what another one, or an earlier run, has counted. @param {ReturnType<Histogram['toJSON']> | undefined} saved */
  addSaved(saved) {
    if (saved === undefined) return
    for (const [bucket, times] of saved.buckets) {
      this.#buckets.set(bucket, (this.#buckets.get(bucket) ?? 0) + times)
      this.count += times
    }
    this.max = Math.max(this.max, saved.max)
  }
}
