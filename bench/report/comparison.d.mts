/** See `comparison.mjs`; for its tests. */
export interface Verdict {
  what: string
  target: string
  measured: string
  result: string
}
export function comparison(options: {
  title: string
  note: string
  unit: string
  samples: Map<string, Record<string, number>[]>
  metric: string
  targets?: readonly object[]
  withInterval?: boolean
}): { text: string; verdicts: Verdict[] }
