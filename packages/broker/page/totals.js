import { byId, element, setText } from './element.js'
import { count, figure } from './format.js'

/** @import { ServiceRates, Sample } from './shapes.d.ts' */

/** @type {readonly [string, (sample: Sample) => string][]} */
const TOTALS = [
  ['handoffs/s', ({ services }) => figure(rate(services, ({ handoffsPerSecond }) => handoffsPerSecond))],
  ['accepted/s', ({ services }) => figure(rate(services, ({ acceptedPerSecond }) => acceptedPerSecond))],
  [
    'live',
    ({ status }) =>
      count(
        total(
          status.services.flatMap(({ backends }) => backends),
          ({ load }) => load,
        ),
      ),
  ],
  ['held', ({ status }) => count(total(status.services, ({ held }) => held))],
  ['relaying', ({ status }) => count(total(status.services, ({ relaying }) => relaying))],
  ['backends ready', ({ status }) => ready(status.services.flatMap(({ backends }) => backends))],
]

/** The summary line: all services together. */
export class Totals {
  #place = byId('totals', HTMLElement)
  #values = TOTALS.map(([, read]) => ({ read, value: element('dd') }))

  constructor() {
    this.#values.forEach(({ value }, index) => {
      this.#place.append(element('div', {}, element('dt', {}, TOTALS[index]?.[0] ?? ''), value))
    })
  }

  /** @param {Sample} sample */
  update(sample) {
    this.#place.hidden = false
    for (const { read, value } of this.#values) setText(value, read(sample))
  }
}

/**
 * @template Each
 * @param {readonly Each[]} all
 * @param {(each: Each) => number} read
 */
function total(all, read) {
  return all.reduce((sum, each) => sum + read(each), 0)
}

/**
 * @param {Sample['services']} services
 * @param {(figures: ServiceRates) => number | null} read
 */
function rate(services, read) {
  return services === null ? null : total(Object.values(services), (figures) => read(figures) ?? 0)
}

/** @param {readonly { state: string }[]} backends */
function ready(backends) {
  return `${count(backends.filter(({ state }) => state === 'ready').length)} of ${count(backends.length)}`
}
