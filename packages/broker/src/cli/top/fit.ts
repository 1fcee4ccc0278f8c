import type { Frame } from './frame.ts'

/** A style, or one character. Built from text: in a literal the linter takes ESC for a slip. */
const PARTS = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m|.`, 'gsu')

/** A line that is cut to a number of columns; styles take no room, and what was put on is taken off. */
export function cut(line: string, columns: number): string {
  let used = 0
  let kept = ''
  for (const [part] of line.matchAll(PARTS)) {
    const isStyle = part.length > 2
    if (!isStyle && used === columns) continue
    if (!isStyle) used += 1
    kept += part
  }
  return kept
}

/** How far down the body can be scrolled. */
export function depth({ head, body }: Frame, rows: number): number {
  return Math.max(0, body.length - roomFor(head, rows))
}

/** As many lines as there are rows: head, the body from line `offset` on, and a line at the foot. */
export function fit(
  frame: Frame,
  screen: { readonly columns: number; readonly rows: number },
  { offset, foot }: { readonly offset: number; readonly foot: string },
): string[] {
  const { head, body } = frame
  const room = roomFor(head, screen.rows)
  const shown = body.slice(offset, offset + room)
  const blank = Array.from({ length: room - shown.length }, () => '')
  return [...head, ...shown, ...blank, foot].slice(0, screen.rows).map((line) => cut(line, screen.columns))
}

/** The foot has a line of its own. */
function roomFor(head: readonly string[], rows: number): number {
  return Math.max(0, rows - head.length - 1)
}
