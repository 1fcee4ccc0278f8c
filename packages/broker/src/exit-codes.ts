/** The exit codes of `baton`. */
export const DONE = 0
export const FAILED = 1
export const USAGE = 2

/** An expected failure: the message is printed without a stack, and `baton` exits with `exitCode` (default: 1). */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly exitCode: number

  constructor(message: string, { exitCode = FAILED, ...options }: ErrorOptions & { exitCode?: number } = {}) {
    super(message, options)
    this.exitCode = exitCode
  }
}
