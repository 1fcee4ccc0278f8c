export const OLD: string
export function history(commit?: string): Buffer | undefined
export function buildOld(archive: Buffer, folder: string): Promise<void>
