import { element } from './element.js'
import { ServicePanel } from './service-panel.js'

/** @import { BackendStatus, Sample, ServiceStatus } from './shapes.d.ts' */
/** @import { History } from './history.js' */

/**
 * @typedef {object} DrainTarget
 * @property {ServiceStatus} service
 * @property {BackendStatus | null} backend null: all backends of the service
 */

/**
 * @typedef {object} Actions
 * @property {(target: DrainTarget) => void} onDrain
 * @property {(service: ServiceStatus) => void} onOutput
 */

/** One panel for each service, in the order of the configuration. */
export class Services {
  #place
  #actions
  /** @type {Map<string, ServicePanel>} */
  #panels = new Map()
  #none = element('p', { class: 'muted' }, 'No service is configured.')

  /**
   * @param {HTMLElement} place
   * @param {Actions} actions
   */
  constructor(place, actions) {
    this.#place = place
    this.#actions = actions
  }

  /**
   * @param {Sample} sample
   * @param {History} history
   */
  update({ at, status, services }, history) {
    const names = new Set(status.services.map(({ name }) => name))
    for (const [name, panel] of this.#panels) {
      if (names.has(name)) continue
      panel.element.remove()
      this.#panels.delete(name)
    }
    this.#none.remove()
    if (names.size === 0) this.#place.append(this.#none)
    for (const service of status.services) {
      let panel = this.#panels.get(service.name)
      if (panel === undefined) {
        panel = new ServicePanel(service.name, this.#actions)
        this.#panels.set(service.name, panel)
        this.#place.append(panel.element)
      }
      const listeners = status.listeners.filter((listener) => listener.service === service.name)
      panel.update({
        service,
        listeners,
        figures: services?.[service.name] ?? null,
        moments: history.of(service.name),
        now: Date.parse(at),
      })
    }
  }
}
