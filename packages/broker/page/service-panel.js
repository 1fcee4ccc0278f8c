import { BackendTable } from './backend-table.js'
import { Chart } from './chart.js'
import { element, setText } from './element.js'
import { count, figure } from './format.js'
import { ReasonTable } from './reason-table.js'

/** @import { ServiceRates, ListenerStatus, ServiceStatus } from './shapes.d.ts' */
/** @import { Moment } from './history.js' */
/** @import { Actions } from './services.js' */

/**
 * Figures shown besides the charts and tables: label, meaning, value.
 *
 * @type {readonly [string, string, (service: ServiceStatus) => number][]}
 */
const FACTS = [
  ['in flight', 'Offered to a backend, not settled yet', ({ inFlight }) => inFlight],
  ['stuck', 'Taken by a backend that did not answer in time', ({ stuck }) => stuck],
  ['parked', 'Idle, handed back by a backend, waiting for their next request', ({ parked }) => parked],
  ['relaying', 'The broker carries their bytes', ({ relaying }) => relaying],
  ['handed off', 'Acknowledged by a backend', ({ outcomes }) => outcomes.handed_off],
  ['handed back', 'Came back alive from a backend', ({ handedBack }) => handedBack],
  ['given back', 'Handed back, but stayed with their backend', ({ givenBack }) => givenBack],
  ['relayed', 'The broker carried their bytes', ({ outcomes }) => outcomes.relayed],
  ['rejected', 'No backend in time, or no room to wait', ({ outcomes }) => outcomes.rejected],
  ['client gone', 'The client disconnected first', ({ outcomes }) => outcomes.client_gone],
  ['relinquished', 'Taken by a backend that never answered', ({ outcomes }) => outcomes.relinquished],
  ['idle closed', 'Ended while parked', ({ outcomes }) => outcomes.idle_closed],
]

/** Everything about one service. */
export class ServicePanel {
  #listeners = element('p', { class: 'listeners muted' })
  #alert = element('p', { class: 'problem' })
  #drain
  #facts = FACTS.map(([, , read]) => ({ read, value: element('dd') }))
  #charts
  #backends
  #reasons
  /** @type {ServiceStatus | undefined} */
  #service

  /**
   * @param {string} name
   * @param {Actions} actions
   */
  constructor(name, { onDrain, onOutput }) {
    const title = `service-${name}`
    this.#drain = element(
      'button',
      { type: 'button', 'aria-label': `Drain all backends of ${name}` },
      'Drain all backends',
    )
    this.#drain.addEventListener('click', () => {
      if (this.#service && this.#drain.ariaDisabled !== 'true')
        onDrain({ service: this.#service, backend: null })
    })
    const output = element('button', { type: 'button', 'aria-label': `Output of ${name}` }, 'Output')
    output.addEventListener('click', () => {
      if (this.#service) onOutput(this.#service)
    })
    this.#backends = new BackendTable(name, (backend) => {
      if (this.#service) onDrain({ service: this.#service, backend })
    })
    this.#reasons = new ReasonTable(name)
    this.#charts = [
      new Chart('Handoffs per second', figure, [{ key: 'handoffs', label: '', className: 'a' }]),
      new Chart('Handoff latency in ms', figure, [
        { key: 'p50', label: 'p50', className: 'a' },
        { key: 'p90', label: 'p90', className: 'b' },
        { key: 'p99', label: 'p99', className: 'c' },
      ]),
      new Chart('Held clients', count, [{ key: 'held', label: '', className: 'warn' }]),
      new Chart('Fallbacks, rejects per second', figure, [
        { key: 'fallbacks', label: 'fallbacks', className: 'warn' },
        { key: 'rejects', label: 'rejects', className: 'bad' },
      ]),
    ]
    const facts = this.#facts.map(({ value }, index) => {
      const [word = '', meaning = ''] = FACTS[index] ?? []
      return element('div', { title: meaning }, element('dt', {}, word), value)
    })
    this.element = element(
      'section',
      { class: 'panel service', 'aria-labelledby': title },
      element(
        'div',
        { class: 'heading' },
        element('h2', { id: title }, name),
        this.#listeners,
        element('span', { class: 'actions' }, output, ' ', this.#drain),
      ),
      this.#alert,
      element('div', { class: 'charts' }, ...this.#charts.map((chart) => chart.element)),
      element(
        'dl',
        { class: 'facts', 'aria-label': `Connections of ${name}, since this worker started` },
        ...facts,
      ),
      element('div', { class: 'tables' }, this.#backends.element, this.#reasons.element),
    )
  }

  /** @param {{ service: ServiceStatus, listeners: readonly ListenerStatus[], figures: ServiceRates | null, moments: readonly Moment[], now: number }} shown */
  update({ service, listeners, figures, moments, now }) {
    this.#service = service
    setText(this.#listeners, [...listeners.map(describe), service.balance, ...shiftOf(service)].join(' · '))
    const ready = service.backends.filter(({ state }) => state === 'ready').length
    // Services with plain upstreams or `handoff: off` serve without any registered backend.
    const idle = ready === 0 && service.handoff === 'auto' && service.held > 0
    const alert = idle ? 'No backend is ready: clients wait, unread, until one is.' : ''
    setText(this.#alert, ordered(service) ?? alert)
    const every = service.backends.every(({ state }) => state === 'draining')
    this.#drain.ariaDisabled = String(every)
    for (const { read, value } of this.#facts) setText(value, count(read(service)))
    for (const chart of this.#charts) chart.draw(moments)
    this.#backends.update(service.backends, now)
    this.#reasons.update(figures)
  }
}

/**
 * Describes an operator's order that applies.
 *
 * @param {ServiceStatus} service
 */
function ordered({ paused, maintenance }) {
  if (maintenance) return `In maintenance since ${maintenance.since}: new clients get a page.`
  if (!paused) return undefined
  const until = paused.until === null ? '' : ` until ${paused.until}`
  return `Paused${until}: new clients wait, unread.`
}

/** @param {ServiceStatus} service */
function shiftOf({ shift }) {
  return shift
    ? [`${shift.canary ? 'canary: ' : ''}${shift.share} % of new connections to version ${shift.to}`]
    : []
}

/** @param {ListenerStatus} listener */
function describe({ name, address, protocol, accepting }) {
  return `${name} ${protocol}://${address}${accepting ? '' : ' (not accepting)'}`
}
