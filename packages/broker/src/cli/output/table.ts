import { plain, type Paint, type Style } from './colours.ts'
import { printable } from '../../log/printable.ts'

export type Cell = string | number | Styled

export interface Styled {
  readonly text: string | number
  readonly style?: Style | undefined
  /** Aligned to the right: a number that is given as text. */
  readonly right?: boolean
}

/** Pads columns to their widest cell and aligns numbers to the right. The first row is the heading. */
export function table(rows: readonly (readonly Cell[])[], paint: Paint = plain): string[] {
  const texts = rows.map((row) => row.map((cell) => printable(String(valueOf(cell)))))
  const widths: number[] = []
  for (const row of texts) {
    for (const [column, text] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, text.length)
  }
  // A number may be missing in some rows: a column with one number is a column of numbers.
  const numeric = widths.map((_, column) => rows.slice(1).some((row) => isNumber(row[column] ?? '')))
  return rows.map((row, index) => {
    const line = row
      .map((cell, column) => {
        const text = texts[index]?.[column] ?? ''
        const padding = ' '.repeat((widths[column] ?? 0) - text.length)
        const style = typeof cell === 'object' ? cell.style : undefined
        const shown = style === undefined ? text : paint(style, text)
        if (numeric[column] === true) return `${padding}${shown}`
        return column === row.length - 1 ? shown : `${shown}${padding}`
      })
      .join('  ')
      .trimEnd()
    return index === 0 ? paint('bold', line) : line
  })
}

function isNumber(cell: Cell): boolean {
  return typeof valueOf(cell) === 'number' || (typeof cell === 'object' && cell.right === true)
}

function valueOf(cell: Cell): string | number {
  return typeof cell === 'object' ? cell.text : cell
}
