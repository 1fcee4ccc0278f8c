// Samples of several peers as one table: each compared with Baton, and the targets next to the measured values.
import { interval95, pairedRatios, summary } from '../statistics.mjs'
import { markdownTable, number } from './table.mjs'

/**
 * A target for a ratio. `includesOne`: its paired ratios' 95 % interval must include 1. `words`: how to print the target,
 * where its number is misleading.
 *
 * @typedef {{ against: string, what: string, words?: string } & (
 *   { atLeast: number, stretch?: number } | { atMost: number, stretch?: number } | { includesOne: true }
 * )} Target
 */

/** @typedef {{ what: string, target: string, measured: string, result: string }} Verdict */

/** @typedef {{ title: string, note: string, text: string, verdicts: Verdict[] }} Section */

/** @param {Target} target @param {number} value a median */
export function judged(target, value) {
  const isWithin = (bound) => ('atLeast' in target ? value >= bound : value <= bound)
  const bound = 'atLeast' in target ? target.atLeast : target.atMost
  if (!isWithin(bound)) return 'not met'
  return target.stretch !== undefined && isWithin(target.stretch) ? 'met, stretch too' : 'met'
}

/** @param {Target} target */
export function wanted(target) {
  if (target.words !== undefined) return target.words
  if ('includesOne' in target) return '95 % interval includes 1'
  const words = 'atLeast' in target ? `at least ${target.atLeast}` : `at most ${target.atMost}`
  return target.stretch === undefined ? words : `${words}, stretch ${target.stretch}`
}

/** Upper limit for the interval's high end divided by its low end. A wider interval would include 1 whatever the truth. */
const MAX_INTERVAL_RATIO = 1.1

/** An interval entirely above 1 is not Baton's fault, but is reported. */
function judgedInterval(interval) {
  if (interval === undefined) return 'needs more rounds'
  if (interval.high < 1) return 'not met'
  if (interval.high / interval.low > MAX_INTERVAL_RATIO) return 'too wide to tell'
  return interval.low > 1 ? 'met, above 1' : 'met'
}

/**
 * @param {{
 *   title: string
 *   note: string
 *   unit: string
 *   samples: Map<string, Record<string, number>[]>
 *   metric: string
 *   subject?: string
 *   targets?: Target[]
 *   withInterval?: boolean
 * }} options `subject`: the peer whose ratio to each of the others is shown
 * @returns {Section}
 */
export function comparison({
  title,
  note,
  unit,
  samples,
  metric,
  subject = 'Baton',
  targets = [],
  withInterval = false,
}) {
  const valuesOf = (name) => samples.get(name).map((sample) => sample[metric])
  const verdicts = []
  const head = ['', unit, 'min to max', `${subject} to it`, 'min to max']
  if (withInterval) head.push('95 % interval')
  if (targets.length > 0) head.push('target', 'result')

  const row = (name) => {
    const own = summary(valuesOf(name))
    const cells = [name, number(own.median), `${number(own.least)} to ${number(own.most)}`]
    if (name === subject || !samples.has(subject)) return cells
    const ratios = pairedRatios(valuesOf(subject), valuesOf(name))
    const { median, least, most } = summary(ratios)
    const interval = interval95(ratios)
    const spread = `${ratio(least)} to ${ratio(most)}`
    const range = interval === undefined ? '' : `${interval.low.toFixed(3)} to ${interval.high.toFixed(3)}`
    cells.push(ratio(median), spread)
    if (withInterval) cells.push(range)
    const target = targets.find(({ against }) => against === name)
    if (target === undefined) return cells
    const isInterval = 'includesOne' in target
    const result = isInterval ? judgedInterval(interval) : judged(target, median)
    cells.push(wanted(target), result)
    verdicts.push({
      what: target.what,
      target: wanted(target),
      measured: isInterval ? range : `${ratio(median)} (${spread})`,
      result,
    })
    return cells
  }
  const rows = [...samples.keys()].filter((name) => samples.get(name).length > 0).map(row)
  return { title, note, text: markdownTable(head, rows), verdicts }
}

/**
 * Samples of Baton alone, with a target that is not a ratio.
 *
 * @param {{
 *   title: string
 *   note: string
 *   unit: string
 *   samples: Map<string, Record<string, number>[]>
 *   metric: string
 *   target: Omit<Target, 'against'>
 * }} options
 * @returns {Section}
 */
export function absolute({ title, note, unit, samples, metric, target }) {
  const verdicts = []
  const rows = [...samples].map(([name, rounds]) => {
    const { median, least, most } = summary(rounds.map((round) => round[metric]))
    const spread = `${number(least)} to ${number(most)}`
    const result = judged(target, median)
    verdicts.push({
      what: target.what,
      target: wanted(target),
      measured: `${number(median)} (${spread})`,
      result,
    })
    return [name, number(median), spread, wanted(target), result]
  })
  return { title, note, text: markdownTable(['', unit, 'min to max', 'target', 'result'], rows), verdicts }
}

/** @param {number} value */
const ratio = (value) => value.toFixed(2)
