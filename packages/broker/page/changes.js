import { byId, element } from './element.js'
import { timeOfDay } from './format.js'

/** @import { Change } from './shapes.d.ts' */

const KEPT = 50

/** Changes since the page was opened, newest first. At most `KEPT`. */
export class Changes {
  #list = byId('change-list', HTMLOListElement)
  #none = byId('no-changes', HTMLElement)

  /** @param {Change} change */
  add({ at, kind, text }) {
    this.#none.hidden = true
    const time = element('time', { datetime: at, title: at }, timeOfDay(at))
    this.#list.prepend(element('li', { 'data-kind': kind }, time, ' ', text))
    while (this.#list.children.length > KEPT) this.#list.lastElementChild?.remove()
  }
}
