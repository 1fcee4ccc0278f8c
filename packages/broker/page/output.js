import { explain, get } from './api.js'
import { byId, element, setText } from './element.js'

/** @import { OutputLine, ServiceOutput, ServiceStatus } from './shapes.d.ts' */

/** Lines that are shown: the last ones. */
const LINES = 200
/** Interval at which they are requested again while the dialog is open. */
const REFRESH_MS = 2000
/** Distance from the end, in pixels, within which new lines are scrolled to. */
const NEAR_END = 24

/** The dialog with the last lines that the managed backends of a service, or one of them, have printed. */
export class OutputDialog {
  #dialog = byId('output', HTMLDialogElement)
  #title = byId('output-title', HTMLElement)
  #backend = byId('output-backend', HTMLSelectElement)
  #problem = byId('output-problem', HTMLElement)
  #lines = byId('output-lines', HTMLElement)
  #service = ''
  /** Ends the requests of the service, or the backend, that was shown before. */
  #showing = new AbortController()

  constructor() {
    byId('output-close', HTMLButtonElement).addEventListener('click', () => this.#dialog.close())
    this.#backend.addEventListener('change', () => this.#begin())
    this.#dialog.addEventListener('close', () => this.#showing.abort())
  }

  /** @param {ServiceStatus} service */
  open({ name, backends }) {
    this.#service = name
    setText(this.#title, `Output of ${name}`)
    const options = backends.map(({ id, slot }) => element('option', { value: id }, slot))
    this.#backend.replaceChildren(element('option', { value: '' }, 'all backends'), ...options)
    this.#dialog.showModal()
    this.#begin()
  }

  #begin() {
    this.#showing.abort()
    this.#showing = new AbortController()
    this.#lines.replaceChildren()
    void this.#follow(this.#showing.signal)
  }

  /** @param {AbortSignal} signal */
  async #follow(signal) {
    const query = new URLSearchParams({ lines: String(LINES) })
    if (this.#backend.value !== '') query.set('backend', this.#backend.value)
    const path = `api/v1/services/${encodeURIComponent(this.#service)}/output?${query}`
    while (!signal.aborted) {
      try {
        /** @type {ServiceOutput} */
        const { lines } = await get(path, signal)
        const none =
          'Nothing is kept: Baton does not start these backends, they have printed nothing, or keepOutput is off.'
        setText(this.#problem, lines.length === 0 ? none : '')
        this.#show(lines)
      } catch (error) {
        if (signal.aborted) return
        setText(this.#problem, explain(error))
      }
      await new Promise((resolve) => setTimeout(resolve, REFRESH_MS))
    }
  }

  /** @param {readonly OutputLine[]} lines */
  #show(lines) {
    const text = this.#lines
    const { scrollTop, scrollHeight, clientHeight } = text
    const isNearEnd = scrollHeight - scrollTop - clientHeight < NEAR_END
    // Unchanged lines keep their elements, so that a selection in them is not lost.
    const keys = lines.map((line) => `${line.time} ${line.backend} ${line.stream} ${line.msg}`)
    while (text.firstElementChild instanceof HTMLElement && text.firstElementChild.dataset['key'] !== keys[0])
      text.firstElementChild.remove()
    lines.forEach((line, index) => {
      const known = text.children[index]
      if (known instanceof HTMLElement && known.dataset['key'] === keys[index]) return
      known?.remove()
      const row = rowOf(line)
      row.dataset['key'] = keys[index] ?? ''
      text.insertBefore(row, text.children[index] ?? null)
    })
    while (text.children.length > lines.length) text.lastElementChild?.remove()
    if (isNearEnd) text.scrollTop = text.scrollHeight
  }
}

/** @param {OutputLine} line */
function rowOf({ time, instance, stream, msg }) {
  const when = element('time', { datetime: time, title: time }, time.slice(11, 23))
  const source = element(
    'span',
    { class: stream === 'stderr' ? 'source problem' : 'source' },
    `${instance} ${stream}`,
  )
  return element('div', { class: 'output-line' }, when, ' ', source, ` ${msg}`)
}
