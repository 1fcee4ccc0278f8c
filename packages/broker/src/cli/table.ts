/** Columns padded to their widest cell, numbers to the right; the first row is the heading. */
export function table(rows: readonly (readonly (string | number)[])[]): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [column, cell] of row.entries())
      widths[column] = Math.max(widths[column] ?? 0, String(cell).length)
  }
  return rows.map((row) =>
    row
      .map((cell, column) => {
        const width = widths[column] ?? 0
        return typeof rows[1]?.[column] === 'number'
          ? String(cell).padStart(width)
          : String(cell).padEnd(width)
      })
      .join('  ')
      .trimEnd(),
  )
}
