import { element, setText, svg } from './element.js'
import { WINDOW_MS } from './history.js'

/** @import { Moment } from './history.js' */

const WIDTH = 240
const HEIGHT = 54
/** Samples further apart than this are not joined: the values between them are unknown. */
const GAP_MS = 12_000

/**
 * @typedef {object} Line
 * @property {Exclude<keyof Moment, 'at'>} key
 * @property {string} label shown and read out if the chart has several lines; otherwise empty
 * @property {string} className
 */

/**
 * A small chart of the last 15 minutes. The current value is next to it as text, and the drawing has a text
 * alternative.
 */
export class Chart {
  #title
  #format
  #lines
  #now = element('p', { class: 'now' })
  #top = element('span', { class: 'top' })
  #drawing
  /** @type {{ line: Line, path: SVGPathElement, area: SVGPathElement | null, value: HTMLElement }[]} */
  #parts

  /**
   * @param {string} title
   * @param {(value: number | null) => string} format
   * @param {readonly Line[]} lines a single line is filled
   */
  constructor(title, format, lines) {
    this.#title = title
    this.#format = format
    this.#lines = lines
    this.#parts = lines.map((line) => ({
      line,
      path: svg('path', { class: `line ${line.className}` }),
      area: lines.length === 1 ? svg('path', { class: `area ${line.className}` }) : null,
      value: element('span'),
    }))
    const shapes = this.#parts.flatMap(({ area, path }) => (area === null ? [path] : [area, path]))
    this.#drawing = svg(
      'svg',
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img' },
      svg('path', { class: 'base', d: `M0 ${HEIGHT - 0.5}H${WIDTH}M0 .5H${WIDTH}` }),
      ...shapes,
    )
    for (const { line, value } of this.#parts) {
      const key = line.label === '' ? null : element('span', { class: `key ${line.className}` }, line.label)
      this.#now.append(element('span', {}, key, value))
    }
    this.element = element(
      'div',
      { class: 'chart' },
      element('h4', {}, title),
      this.#now,
      element('div', { class: 'plot' }, this.#drawing, this.#top),
    )
  }

  /** @param {readonly Moment[]} moments oldest first */
  draw(moments) {
    const last = moments.at(-1)
    if (last === undefined) return
    const most = Math.max(0, ...moments.flatMap((moment) => this.#lines.map(({ key }) => moment[key] ?? 0)))
    const scale = roundUp(most)
    for (const { line, path, area, value } of this.#parts) {
      const runs = runsOf(moments, line.key, last.at, scale)
      path.setAttribute('d', runs.map((run) => `M${run.map(([x, y]) => `${x} ${y}`).join('L')}`).join(''))
      area?.setAttribute('d', runs.map(filled).join(''))
      setText(value, this.#format(last[line.key]))
    }
    setText(this.#top, this.#format(scale))
    const parts = this.#lines.map(({ key, label }) => `${label} ${this.#format(last[key])}`.trim())
    this.#drawing.setAttribute(
      'aria-label',
      `${this.#title}, last 15 minutes: now ${parts.join(', ')}; at most ${this.#format(most)}`,
    )
  }
}

/** @typedef {[x: number, y: number][]} Run points joined by a line */

/**
 * @param {readonly Moment[]} moments
 * @param {Line['key']} key
 * @param {number} end
 * @param {number} scale
 */
function runsOf(moments, key, end, scale) {
  /** @type {Run[]} */
  const runs = []
  let previous = -Infinity
  for (const moment of moments) {
    const value = moment[key]
    if (value === null) continue
    if (moment.at - previous > GAP_MS) runs.push([])
    previous = moment.at
    const x = WIDTH * (1 - (end - moment.at) / WINDOW_MS)
    const y = HEIGHT - 1 - (HEIGHT - 3) * (value / scale)
    runs.at(-1)?.push([Math.round(x * 10) / 10, Math.round(y * 10) / 10])
  }
  return runs
}

/** @param {Run} run */
function filled(run) {
  const [first = [0, 0]] = run
  const [last] = run.at(-1) ?? [0]
  return `M${first[0]} ${HEIGHT}L${run.map(([x, y]) => `${x} ${y}`).join('L')}L${last} ${HEIGHT}Z`
}

/**
 * Rounds up to 1, 2, 5, 10, 20, 50, ..., so that the scale seldom changes.
 *
 * @param {number} value
 */
function roundUp(value) {
  if (value <= 0) return 1
  const power = 10 ** Math.floor(Math.log10(value))
  return (
    [1, 2, 5, 10].map((step) => step * power).find((candidate) => candidate >= value * 0.999) ?? 10 * power
  )
}
