import { explain, post } from './api.js'
import { byId, setText } from './element.js'
import { duration, plural } from './format.js'

/** @import { DrainTarget } from './services.js' */

/**
 * @typedef {object} Question
 * @property {string} title
 * @property {string} text what the action does
 * @property {string} [warning]
 * @property {string} confirm label of the button
 * @property {boolean} [deadline] whether the user can set one
 * @property {(deadline: string) => Promise<{ text: string, log?: readonly string[] }>} act
 */

/** The dialog that confirms an action and then shows its result. */
export class QuestionDialog {
  #dialog = byId('ask', HTMLDialogElement)
  #form = byId('ask-form', HTMLFormElement)
  #title = byId('ask-title', HTMLElement)
  #text = byId('ask-text', HTMLElement)
  #warning = byId('ask-warning', HTMLElement)
  #deadlineLabel = byId('ask-deadline-label', HTMLElement)
  #deadline = byId('ask-deadline', HTMLInputElement)
  #outcome = byId('ask-outcome', HTMLElement)
  #log = byId('ask-log', HTMLPreElement)
  #cancel = byId('ask-cancel', HTMLButtonElement)
  #confirm = byId('ask-confirm', HTMLButtonElement)
  /** @type {Question | undefined} */
  #question
  #busy = false

  constructor() {
    this.#cancel.addEventListener('click', () => this.#dialog.close())
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      void this.#act()
    })
    // Escape cannot cancel an action in progress, and its result should be seen.
    this.#dialog.addEventListener('cancel', (event) => {
      if (this.#busy) event.preventDefault()
    })
  }

  /** @param {Question} question */
  ask(question) {
    this.#question = question
    setText(this.#title, question.title)
    setText(this.#text, question.text)
    setText(this.#warning, question.warning ?? '')
    this.#warning.hidden = question.warning === undefined
    this.#deadlineLabel.hidden = !question.deadline
    this.#deadline.value = ''
    setText(this.#outcome, '')
    this.#outcome.className = ''
    this.#log.hidden = true
    setText(this.#confirm, question.confirm)
    this.#confirm.hidden = false
    this.#confirm.disabled = false
    setText(this.#cancel, 'Cancel')
    this.#cancel.hidden = false
    this.#dialog.showModal()
    // So that Enter does not confirm by mistake.
    this.#cancel.focus()
  }

  async #act() {
    if (this.#question === undefined || this.#busy) return
    this.#busy = true
    this.#confirm.disabled = true
    this.#cancel.disabled = true
    setText(this.#outcome, 'Waiting for the broker …')
    this.#outcome.className = ''
    try {
      const { text, log = [] } = await this.#question.act(this.#deadline.value.trim())
      setText(this.#outcome, text)
      this.#outcome.className = 'done'
      setText(this.#log, log.map(readable).join('\n'))
      this.#log.hidden = log.length === 0
      this.#confirm.hidden = true
      this.#deadlineLabel.hidden = true
    } catch (error) {
      setText(this.#outcome, explain(error))
      this.#outcome.className = 'problem'
      // The user may retry, with another deadline or after a deploy.
      this.#confirm.disabled = false
    }
    this.#busy = false
    this.#cancel.disabled = false
    setText(this.#cancel, 'Close')
    this.#cancel.focus()
  }
}

/**
 * @param {DrainTarget} target
 * @returns {Question}
 */
export function drainQuestion({ service, backend }) {
  const path = `api/v1/services/${encodeURIComponent(service.name)}`
  const drained = backend === null ? service.backends : [backend]
  const live = drained.reduce((total, { load }) => total + load, 0)
  const others = service.backends.filter((other) => other.state === 'ready' && !drained.includes(other))
  const name = backend === null ? `every backend of ${service.name}` : backend.slot
  return {
    title: `Drain ${name}?`,
    text:
      `New connections stop immediately. ${plural(live, 'live connection')} may finish until the deadline; ` +
      'each backend is deregistered after its last one.',
    ...(others.length === 0 && {
      warning: `No other backend is ready: clients of ${service.name} will wait until one is.`,
    }),
    confirm: 'Drain',
    deadline: true,
    async act(deadline) {
      const where = backend === null ? `${path}/drain` : `${path}/backends/${backend.id}/drain`
      const body = deadline === '' ? {} : { deadline: /^\d+$/.test(deadline) ? Number(deadline) : deadline }
      /** @type {{ draining: number, deadlineMs: number }} */
      const { draining, deadlineMs } = await post(where, body)
      const text =
        draining === 0
          ? 'Nothing to do: already draining, or gone.'
          : `Drain started: ${plural(draining, 'backend')} to finish within ${duration(deadlineMs)}.`
      return { text }
    },
  }
}

/** @returns {Question} */
export function reloadQuestion() {
  return {
    title: 'Reload the broker?',
    text:
      'Reads the configuration again and restarts the installed program on the same sockets. Clients do not notice. ' +
      'If the reload fails, nothing changes.',
    confirm: 'Reload',
    async act() {
      /** @type {{ success: boolean, log: readonly string[] }} */
      const { success, log } = await post('api/v1/reload', {}, [409])
      return { text: success ? 'Reloaded.' : 'Refused or failed: the broker continues as before.', log }
    },
  }
}

const COMMON_KEYS = new Set(['level', 'time', 'pid', 'hostname', 'name'])

/**
 * A log line as text, in the form that `baton start` prints.
 *
 * @param {string} line
 */
function readable(line) {
  try {
    const { msg, ...rest } = JSON.parse(line)
    const more = Object.entries(rest).filter(([key]) => !COMMON_KEYS.has(key))
    return [msg, ...more.map(([key, value]) => `${key}=${JSON.stringify(value)}`)].join(' ')
  } catch {
    return line
  }
}
