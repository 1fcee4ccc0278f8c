/** Where a command writes: results to `out`, messages for a person to `err`. Each call is one line. */
export interface Terminal {
  out(line: string): void
  err(line: string): void
}

/** The exit codes of `baton`. */
export const DONE = 0
export const FAILED = 1
export const USAGE = 2

/** The command line makes no sense: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** The command could not be done, and the message says all there is to say: exit code 1, no stack. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
}
