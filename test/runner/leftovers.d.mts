/** Processes whose mark begins with `value`. */
export function processesOf(value: string): { pid: number; command: string }[]
