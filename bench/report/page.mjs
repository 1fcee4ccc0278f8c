// The part of docs/explanation/performance.md that a run writes. The rest of the page is written by hand.
import { readFileSync, writeFileSync } from 'node:fs'
import { machine, versions } from './machine.mjs'
import { markdownTable } from './table.mjs'

export const BEGIN = '<!-- measured: begin -->'
export const END = '<!-- measured: end -->'

/**
 * @param {string} page
 * @param {string} measured
 * @returns {string} the page with `measured` between the markers
 */
export function withMeasured(page, measured) {
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)]
  const isOnce = begin === page.lastIndexOf(BEGIN) && end === page.lastIndexOf(END)
  if (begin === -1 || end < begin || !isOnce)
    throw new Error(`the page must contain ${BEGIN}, and ${END} after it, once each`)
  return `${page.slice(0, begin + BEGIN.length)}\n\n${measured.trim()}\n\n${page.slice(end)}`
}

/** @param {string} path @param {string} measured */
export function writePage(path, measured) {
  writeFileSync(path, withMeasured(readFileSync(path, 'utf8'), measured))
}

/**
 * @param {{
 *   command: string
 *   rounds: number
 *   results: readonly { sections: import('./comparison.mjs').Section[] }[]
 *   leftOut: ReadonlyMap<string, string>
 * }} run
 */
export function measuredPart({ command, rounds, results, leftOut }) {
  const sections = results.flatMap((result) => result.sections)
  const verdicts = sections.flatMap((section) => section.verdicts)
  const rows = verdicts.map(({ what, measured, target, result }) => [what, measured, target, result])
  return [
    provenance({ command, rounds, leftOut }),
    `### Targets\n\n${markdownTable(['measure', 'measured', 'target', 'result'], rows)}`,
    ...sections.map(({ title, note, text }) => `### ${title}\n\n${note}\n\n${text}`),
  ].join('\n\n')
}

function provenance({ command, rounds, leftOut }) {
  const named = Object.entries(versions()).map(([name, version]) => `${name} ${version}`)
  const lines = [
    `- command: \`${command}\``,
    `- rounds: ${rounds}`,
    `- machine: ${machine()}`,
    `- versions: ${named.join('; ')}`,
    ...[...leftOut].map(([name, reason]) => `- left out: ${name} (${reason})`),
  ]
  return lines.join('\n')
}
