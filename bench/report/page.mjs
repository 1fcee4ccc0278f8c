// Parts of pages that a run writes, each between its two markers. The rest of a page is written by hand.
import { readFileSync, writeFileSync } from 'node:fs'
import { program } from '../scratch.mjs'
import { machine, versions } from './machine.mjs'
import { markdownTable } from './table.mjs'

/** The page of the figures that count; and that of all tables, for a release line of Node. */
export const PERFORMANCE = program('docs/explanation/performance.md')
export const measurementsPage = (line) => program(`docs/explanation/measurements-node-${line}.md`)

/** The release line of the Node that runs this. */
export const NODE_LINE = process.versions.node.split('.')[0]

/** @param {string} part */
export const markers = (part) => [`<!-- ${part}: begin -->`, `<!-- ${part}: end -->`]

/**
 * @param {string} page
 * @param {string} part
 * @param {string} text
 * @returns {string} the page with `text` between the markers of the part
 */
export function withPart(page, part, text) {
  const [beginning, ending] = markers(part)
  const [begin, end] = [page.indexOf(beginning), page.indexOf(ending)]
  const isOnce = begin === page.lastIndexOf(beginning) && end === page.lastIndexOf(ending)
  if (begin === -1 || end < begin || !isOnce)
    throw new Error(`the page must contain ${beginning}, and ${ending} after it, once each`)
  return `${page.slice(0, begin + beginning.length)}\n\n${text.trim()}\n\n${page.slice(end)}`
}

/** @param {string} path @param {string} part @param {string} text */
export function writePart(path, part, text) {
  writeFileSync(path, withPart(readFileSync(path, 'utf8'), part, text))
}

/** @typedef {import('./comparison.mjs').Section} Section */

/**
 * The targets, and how far they are met.
 *
 * @param {readonly { sections: Section[] }[]} results
 */
export function targetsPart(results) {
  const verdicts = results.flatMap(({ sections }) => sections.flatMap((section) => section.verdicts))
  const rows = verdicts.map(({ what, measured, target, result }) => [what, measured, target, result])
  return markdownTable(['measure', 'measured', 'target', 'result'], rows)
}

/** All tables. @param {readonly { sections: Section[] }[]} results */
export function tablesPart(results) {
  const sections = results.flatMap((result) => result.sections)
  return sections.map(({ title, note, text }) => `## ${title}\n\n${note}\n\n${text}`).join('\n\n')
}

/** Where figures come from. @param {{ command: string, rounds: number, leftOut: ReadonlyMap<string, string> }} run */
export function provenance({ command, rounds, leftOut }) {
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
