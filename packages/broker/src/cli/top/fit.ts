import type { Frame } from './frame.ts'

/** A style, or one character. Built from a string because the linter refuses ESC in a literal. */
const PARTS = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m|.`, 'gsu')

/** Cuts a line to a number of columns. Styles take no room, and those that were switched on are switched off again. */
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

/** How many lines the body can be scrolled. */
export function depth({ head, body }: Frame, rows: number): number {
  return Math.max(0, body.length - roomFor(head, rows))
}

/** Exactly one line per row: the head, the body from line `offset` on, and the foot. */
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

/** Rows for the body: what head and foot leave. */
function roomFor(head: readonly string[], rows: number): number {
  return Math.max(0, rows - head.length - 1)
}
