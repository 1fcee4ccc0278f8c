import { element, row, setText, table } from './element.js'
import { age, count, milliseconds } from './format.js'

/** @import { BackendStatus } from './shapes.d.ts' */

/** Symbols for users who cannot tell the colours apart; the word is next to them. */
const SIGNS = {
  ready: '●',
  starting: '○',
  draining: '◐',
  paused: '◐',
  unresponsive: '▲',
  unhealthy: '▲',
}

/** Event-loop lag that is highlighted, in ms: all work of the backend is delayed by it. */
const LATE_MS = 100

const COLUMNS = [
  { title: 'Backend' },
  { title: 'State', className: 'wide' },
  { title: 'Version' },
  { title: 'Live', className: 'number' },
  { title: 'Loop lag', className: 'number' },
  { title: 'Adopted', className: 'number' },
  { title: 'Handed back', className: 'number' },
  { title: 'Weight', className: 'number' },
  { title: 'Pid', className: 'number' },
  { title: 'Up for', className: 'number' },
  { title: 'Action', className: 'action' },
]

/** The registered backends of one service. A backend keeps its row element, so that the row keeps the focus. */
export class BackendTable {
  #onDrain
  #body
  #none = element('p', { class: 'muted' }, 'No backend is registered.')
  #table
  /** @type {Map<string, BackendRow>} */
  #rows = new Map()

  /**
   * @param {string} service
   * @param {(backend: BackendStatus) => void} onDrain
   */
  constructor(service, onDrain) {
    this.#onDrain = onDrain
    const { table: made, body } = table(`Backends of ${service}`, COLUMNS)
    this.#table = made
    this.#body = body
    this.element = element(
      'div',
      { class: 'backends cards' },
      element('h3', {}, 'Backends'),
      made,
      this.#none,
    )
  }

  /**
   * @param {readonly BackendStatus[]} backends
   * @param {number} now Unix time in ms, by the broker's clock
   */
  update(backends, now) {
    const ids = new Set(backends.map(({ id }) => id))
    for (const [id, gone] of this.#rows) {
      if (ids.has(id)) continue
      gone.element.remove()
      this.#rows.delete(id)
    }
    backends.forEach((backend, index) => {
      const known = this.#rows.get(backend.id) ?? new BackendRow(this.#onDrain)
      this.#rows.set(backend.id, known)
      known.update(backend, now)
      // Moving an element takes the focus from it, so move it only if its position has changed.
      if (this.#body.children[index] !== known.element)
        this.#body.insertBefore(known.element, this.#body.children[index] ?? null)
    })
    this.#table.hidden = backends.length === 0
    this.#none.hidden = backends.length > 0
  }
}

class BackendRow {
  #sign = element('span', { 'aria-hidden': 'true' })
  #state = element('span')
  #badge = element('span', { class: 'state' }, this.#sign, this.#state)
  #slot = element('span', { class: 'slot' })
  #texts = Array.from({ length: 8 }, () => element('span'))
  #button = element('button', { type: 'button' }, 'Drain')
  /** @type {BackendStatus | undefined} */
  #backend

  /** @param {(backend: BackendStatus) => void} onDrain */
  constructor(onDrain) {
    this.element = row(COLUMNS, [this.#slot, this.#badge, ...this.#texts, this.#button])
    this.#button.addEventListener('click', () => {
      if (this.#backend && this.#button.ariaDisabled !== 'true') onDrain(this.#backend)
    })
  }

  /**
   * @param {BackendStatus} backend
   * @param {number} now
   */
  update(backend, now) {
    this.#backend = backend
    const { id, slot, state, version, load, lagMs, adopted, handedBack, weight, pid, registeredAt } = backend
    setText(this.#slot, slot)
    this.#slot.title = id
    this.#badge.dataset['state'] = state
    setText(this.#sign, SIGNS[state])
    setText(this.#state, state)
    const texts = [
      version ?? '–',
      count(load),
      milliseconds(lagMs),
      count(adopted),
      count(handedBack),
      String(weight),
      String(pid),
      age(registeredAt, now),
    ]
    this.#texts.forEach((target, index) => setText(target, texts[index] ?? ''))
    this.#texts[2]?.classList.toggle('late', (lagMs ?? 0) > LATE_MS)
    this.#button.ariaLabel = `Drain ${slot}`
    this.#button.ariaDisabled = String(state === 'draining')
  }
}
