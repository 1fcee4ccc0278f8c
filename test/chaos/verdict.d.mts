/** See `verdict.mjs`; tests look at no more than this. */
export function judge(run: object): { allowed: Record<string, number>; violations: string[] }
