// The counts of the clients of one process, in a form that can be sent, saved and added up.
import { Histogram } from './histogram.mjs'

const COUNTS = [
  'connections',
  'ended',
  'failed',
  'announced',
  'sent',
  'answered',
  'pushed',
  'moves',
  'lost',
  'cut',
  'doubled',
  'reordered',
  'wrong',
  'twoOwners',
]
const HISTOGRAMS = ['latency', 'pause']

/** Counts, and times in microseconds. */
export class Totals {
  constructor() {
    for (const name of COUNTS) this[name] = 0
    for (const name of HISTOGRAMS) this[name] = new Histogram()
    /** Pid -> answers. @type {Map<number, number>} */
    this.byProcess = new Map()
    /** The first few faults, in words. @type {string[]} */
    this.faults = []
  }

  /** @param {'failed' | 'wrong' | 'twoOwners'} kind @param {string} words */
  fault(kind, words) {
    this[kind] += 1
    if (this.faults.length < 20) this.faults.push(`${kind}: ${words}`)
  }

  toJSON() {
    return { ...Object.fromEntries(Object.entries(this)), byProcess: Object.fromEntries(this.byProcess) }
  }

  /** @param {object} saved a `Totals`, as it was after JSON */
  addSaved(saved) {
    for (const name of COUNTS) this[name] += saved[name]
    for (const name of HISTOGRAMS) this[name].addSaved(saved[name])
    this.faults.push(...saved.faults)
    return this
  }
}

/** Numbers that should arrive as 1, 2, 3: what is missing, comes twice, or comes late. */
export class Sequence {
  #last = 0
  #missing = new Set()
  #totals

  constructor(totals) {
    this.#totals = totals
  }

  arrived(number) {
    if (number > this.#last) {
      for (let absent = this.#last + 1; absent < number; absent++) this.#missing.add(absent)
      this.#totals.lost += number - this.#last - 1
      this.#last = number
    } else if (this.#missing.delete(number)) {
      this.#totals.lost -= 1
      this.#totals.reordered += 1
    } else {
      this.#totals.doubled += 1
    }
  }
}

/** CLOCK_MONOTONIC, the same in all processes: microseconds. */
export const micros = () => Number(process.hrtime.bigint() / 1000n)

/** A random integer from 0. @param {number} limit */
export const below = (limit) => Math.floor(Math.random() * limit)
