// Tables that are readable both in a terminal and as Markdown.

/** A figure, or two figures with words between or after them. */
const FIGURES = /^[\d.,]+( to [\d.,]+| \(.*\))?$/

/**
 * @param {readonly string[]} head
 * @param {readonly (readonly string[])[]} rows short ones are padded
 */
export function markdownTable(head, rows) {
  const columns = head.map((title, index) => {
    const cells = rows.map((row) => row[index] ?? '')
    const width = Math.max(3, title.length, ...cells.map((cell) => cell.length))
    const isFigures = cells.every((cell) => cell === '' || FIGURES.test(cell))
    const pad = (cell) => (isFigures ? cell.padStart(width) : cell.padEnd(width))
    return { pad, rule: isFigures ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width) }
  })
  const line = (cells) => `| ${columns.map(({ pad }, index) => pad(cells[index] ?? '')).join(' | ')} |`
  const rule = `| ${columns.map((column) => column.rule).join(' | ')} |`
  return [line(head), rule, ...rows.map(line)].join('\n')
}

/** Three significant digits; no decimals from 100 up. @param {number} value */
export function number(value) {
  if (!Number.isFinite(value)) return String(value)
  const decimals = [2, 1].find((digits) => Number(value.toFixed(digits)) < 10 ** (3 - digits))
  return decimals === undefined ? Math.round(value).toLocaleString('en-US') : value.toFixed(decimals)
}
