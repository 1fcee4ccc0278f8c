/** The exit codes of `baton`. */
export const DONE = 0
export const FAILED = 1
export const USAGE = 2

/** The command could not be done, and the message says all there is to say: no stack, exit code 1 if no other is given. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly exitCode: number

  constructor(message: string, { exitCode = FAILED, ...options }: ErrorOptions & { exitCode?: number } = {}) {
    super(message, options)
    this.exitCode = exitCode
  }
}
