/** The exit codes of `baton`. */
export const DONE = 0
export const FAILED = 1
export const USAGE = 2
