/** See `page.mjs`; for its tests. */
export const BEGIN: string
export const END: string
export function withMeasured(page: string, measured: string): string
