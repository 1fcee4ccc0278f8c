/** See `verdict.mjs`; only what the tests use. */
export function judge(run: object): { allowed: Record<string, number>; violations: string[] }
