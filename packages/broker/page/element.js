// Elements are built, never parsed: the page's Content-Security-Policy forbids HTML from strings.

const SVG = 'http://www.w3.org/2000/svg'

/** @typedef {string | Node | null} Child */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string>} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children.filter((child) => child !== null))
  return made
}

/**
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string>} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children.filter((child) => child !== null))
  return made
}

/**
 * Finds an element of index.html.
 *
 * @template {HTMLElement} Kind
 * @param {string} id
 * @param {new () => Kind} kind
 * @returns {Kind}
 */
export function byId(id, kind) {
  const found = document.querySelector(`#${id}`)
  if (!(found instanceof kind)) throw new Error(`index.html has no ${kind.name} #${id}`)
  return found
}

/**
 * Writes only if the text differs, because a write loses the user's selection in it.
 *
 * @param {Element} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text
}

/**
 * A table with explicit roles: on phones the style sheet changes the `display` of its rows, and browsers then drop the
 * table semantics.
 *
 * @param {string} caption read out by screen readers, not shown
 * @param {readonly { title: string, className?: string }[]} columns
 */
export function table(caption, columns) {
  const body = element('tbody', { role: 'rowgroup' })
  const cells = columns.map(({ title, className = '' }) =>
    element('th', { role: 'columnheader', scope: 'col', class: className }, title),
  )
  const head = element('thead', { role: 'rowgroup' }, element('tr', { role: 'row' }, ...cells))
  const title = element('caption', { class: 'visually-hidden' }, caption)
  return { table: element('table', { role: 'table' }, title, head, body), body }
}

/**
 * One row of such a table. The first cell is its header.
 *
 * @param {readonly { title: string, className?: string }[]} columns
 * @param {readonly Child[]} contents
 */
export function row(columns, contents) {
  const cells = columns.map(({ title, className = '' }, index) => {
    const shared = { class: className, 'data-label': title }
    const content = contents[index] ?? null
    return index === 0
      ? element('th', { role: 'rowheader', scope: 'row', ...shared }, content)
      : element('td', { role: 'cell', ...shared }, content)
  })
  return element('tr', { role: 'row' }, ...cells)
}
