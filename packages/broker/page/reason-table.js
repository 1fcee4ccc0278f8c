import { element, row, setText, table } from './element.js'
import { count, figure } from './format.js'

/** @import { ServiceRates } from './shapes.d.ts' */

const COLUMNS = [
  { title: 'Action' },
  { title: 'Reason' },
  { title: 'Per s', className: 'number' },
  { title: 'Total', className: 'number' },
]

/** Fallbacks, rejects, and hand-backs that were not taken, of one service, by reason. */
export class ReasonTable {
  #body
  #table
  #note = element('p', { class: 'muted' })
  /** @type {Map<string, { element: HTMLElement, rate: HTMLElement, total: HTMLElement }>} */
  #rows = new Map()

  /** @param {string} service */
  constructor(service) {
    const { table: made, body } = table(`Fallbacks and rejects of ${service}`, COLUMNS)
    this.#table = made
    this.#body = body
    this.element = element(
      'div',
      { class: 'reasons' },
      element('h3', {}, 'Fallbacks and rejects'),
      made,
      this.#note,
    )
  }

  /** @param {ServiceRates | null} figures */
  update(figures) {
    const rows = figures === null ? [] : rowsOf(figures)
    const keys = new Set(rows.map(({ key }) => key))
    for (const [key, { element: gone }] of this.#rows) {
      if (keys.has(key)) continue
      gone.remove()
      this.#rows.delete(key)
    }
    for (const { key, what, reason, rate, total } of rows) {
      let known = this.#rows.get(key)
      if (known === undefined) {
        const [first, second] = [element('span'), element('span')]
        known = { element: row(COLUMNS, [what, reason, first, second]), rate: first, total: second }
        this.#rows.set(key, known)
        this.#body.append(known.element)
      }
      setText(known.rate, figure(rate))
      setText(known.total, count(total))
    }
    this.#table.hidden = rows.length === 0
    this.#note.hidden = rows.length > 0
    setText(this.#note, figures === null ? 'Not known yet.' : 'None since this worker started.')
  }
}

/** @param {ServiceRates} figures */
function rowsOf({ fallbacks, fallbacksPerSecond, rejects, rejectsPerSecond, notTaken, notTakenPerSecond }) {
  const kept = Object.entries(notTaken).map(([key, total]) => {
    const [result = '', reason = ''] = key.split('/')
    return { key, what: result, reason, rate: notTakenPerSecond[key] ?? 0, total }
  })
  const steps = Object.entries(fallbacks).map(([key, total]) => {
    const [action = '', reason = ''] = key.split('/')
    return { key, what: action, reason, rate: fallbacksPerSecond[key] ?? 0, total }
  })
  const ends = Object.entries(rejects).map(([reason, total]) => {
    return { key: `rejected/${reason}`, what: 'rejected', reason, rate: rejectsPerSecond[reason] ?? 0, total }
  })
  return [...steps, ...ends, ...kept].filter(({ total }) => total > 0)
}
