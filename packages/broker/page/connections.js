import { ApiError, explain, get } from './api.js'
import { byId, element, row, setText, table } from './element.js'
import { count, precisely, timeOfDay } from './format.js'
import { recordView } from './record-view.js'

/** @import { ConnectionList, FlightRecord } from './shapes.d.ts' */

/** Crockford's alphabet has no I, L, O and U; 26 characters, the first at most 7 (ulid/spec). */
const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/
const LISTED = 15
const AGAIN_MS = 5000

const COLUMNS = [
  { title: 'Connection', className: 'id' },
  { title: 'Accepted' },
  { title: 'Service' },
  { title: 'Outcome' },
  { title: 'Reason' },
  { title: 'Backend' },
  { title: 'Took', className: 'number' },
]

/**
 * Flight records: one by its id, and the slowest or newest. Each record has its own URL, `#ULID`, for links and the
 * browser's Back button.
 */
export class Connections {
  #section = byId('connections', HTMLElement)
  #id = byId('lookup-id', HTMLInputElement)
  #problem = byId('lookup-problem', HTMLElement)
  #record = byId('record', HTMLElement)
  #service = byId('filter-service', HTMLSelectElement)
  #outcome = byId('filter-outcome', HTMLSelectElement)
  #order = byId('filter-order', HTMLSelectElement)
  #listed = byId('listed', HTMLElement)
  #list = byId('list', HTMLElement)
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #timer

  constructor() {
    byId('lookup', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault()
      this.#submit(this.#id.value.trim().toUpperCase())
    })
    for (const choice of [this.#service, this.#outcome, this.#order])
      choice.addEventListener('change', () => void this.#refresh())
    byId('filter', HTMLFormElement).addEventListener('submit', (event) => event.preventDefault())
    byId('filter-again', HTMLButtonElement).addEventListener('click', () => void this.#refresh())
    window.addEventListener('hashchange', () => void this.#follow())
  }

  /** Called again after sign-in. */
  start() {
    if (this.#timer !== undefined) return
    this.#timer = setInterval(() => {
      // Rows must not move while the user points at them or has the focus in them.
      if (!document.hidden && !this.#section.matches(':hover, :focus-within')) void this.#refresh()
    }, AGAIN_MS)
    void this.#refresh()
    void this.#follow()
  }

  /** @param {readonly string[]} names */
  offer(names) {
    const known = [...this.#service.options].slice(1).map(({ value }) => value)
    if (known.join('\n') === names.join('\n')) return
    const chosen = this.#service.value
    this.#service.replaceChildren(
      element('option', { value: '' }, 'any'),
      ...names.map((name) => element('option', {}, name)),
    )
    this.#service.value = names.includes(chosen) ? chosen : ''
  }

  /** @param {string} id */
  #submit(id) {
    if (!ULID.test(id)) {
      this.#showProblem('This is not a ULID: 26 digits and letters, without I, L, O and U.')
      return
    }
    if (location.hash === `#${id}`) void this.#follow()
    else location.hash = id
  }

  /** @param {string} text */
  #showProblem(text) {
    setText(this.#problem, text)
    this.#id.setAttribute('aria-invalid', String(text !== ''))
  }

  /** Shows the record that the URL names. */
  async #follow() {
    const id = location.hash.slice(1)
    if (!ULID.test(id)) return this.#hide()
    this.#showProblem('')
    try {
      /** @type {FlightRecord} */
      const record = await get(`api/v1/connections/${id}`)
      if (location.hash !== `#${id}`) return
      this.#id.value = id
      this.#record.replaceChildren(...recordView(record, () => this.#close(id)))
      this.#record.hidden = false
      byId('record-title', HTMLElement).focus()
    } catch (error) {
      this.#hide()
      this.#showProblem(explain(error))
    }
  }

  #hide() {
    this.#record.hidden = true
    this.#record.replaceChildren()
  }

  /** @param {string} id */
  #close(id) {
    this.#hide()
    history.pushState(null, '', location.pathname + location.search)
    const link = this.#list.querySelector(`a[href="#${id}"]`)
    if (link instanceof HTMLElement) link.focus()
    else this.#id.focus()
  }

  async #refresh() {
    const query = new URLSearchParams({ limit: String(LISTED) })
    if (this.#order.value === 'slowest') query.set('slowest', 'true')
    if (this.#service.value !== '') query.set('service', this.#service.value)
    if (this.#outcome.value !== '') query.set('outcome', this.#outcome.value)
    try {
      /** @type {ConnectionList} */
      const list = await get(`api/v1/connections?${query}`)
      this.#show(list)
    } catch (error) {
      // If the broker does not answer, the top of the page says so.
      if (error instanceof ApiError) setText(this.#listed, explain(error))
    }
  }

  /** @param {ConnectionList} list */
  #show({ connections, recorded, capacity }) {
    const kept =
      capacity === 0
        ? 'The flight recorder is off (recorder: 0).'
        : `From the last ${count(recorded)} connections of this worker; it keeps up to ${count(capacity)}.`
    setText(this.#listed, `${kept} ${connections.length === 0 ? 'None match.' : ''}`.trim())
    if (connections.length === 0) return this.#list.replaceChildren()
    const { table: made, body } = table('Connections', COLUMNS)
    for (const { id, acceptedAt, service, outcome, reason, backend, durationMs, steps } of connections) {
      const link = element('a', { href: `#${id}`, class: 'mono' }, id)
      const cells = [
        service,
        outcome ?? (steps.at(-1)?.step === 'parked' ? 'parked' : `in progress: ${steps.at(-1)?.step}`),
        reason ?? '',
        backend?.slot ?? '',
        precisely(durationMs),
      ]
      body.append(row(COLUMNS, [link, timeOfDay(acceptedAt), ...cells]))
    }
    this.#list.replaceChildren(made)
  }
}
