/** See `page.mjs`; for its tests. */
export const PERFORMANCE: string
export function measurementsPage(line: string): string
export function markers(part: string): [begin: string, end: string]
export function withPart(page: string, part: string, text: string): string
