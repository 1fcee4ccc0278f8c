/** The exit codes of `baton`. */
export const DONE = 0
export const FAILED = 1
export const USAGE = 2

export interface CommandErrorOptions extends ErrorOptions {
  readonly exitCode?: number
  readonly code?: string | undefined
}

/** The command failed, and the message is complete: it is printed without a stack. Exit code 1 by default. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly exitCode: number
  /** Stable, such as `BATON_ERR_NO_BROKER`; undefined where the exit code says it. */
  readonly code: string | undefined

  constructor(message: string, { exitCode = FAILED, code, ...options }: CommandErrorOptions = {}) {
    super(message, options)
    this.exitCode = exitCode
    this.code = code
  }
}
