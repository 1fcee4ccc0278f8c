import type { ReadStream, WriteStream } from 'node:tty'

/** Where a command writes: results to `out`, messages for a person to `err`. Each call is one line. */
export interface Terminal {
  out(line: string): void
  err(line: string): void
  /** What `out` writes to, if that is a terminal which obeys escape sequences; absent for a file or a pipe. */
  readonly display?: Display
  /** Aborted when nobody reads `out` any more. */
  readonly unread?: AbortSignal
}

/** A terminal with a person before it. */
export interface Display {
  readonly colours: boolean
  readonly output: WriteStream
  /** Opened when it is asked for; undefined when standard input is something else: `baton top </dev/null`. */
  keyboard(): ReadStream | undefined
}

/** The exit codes of `baton`. */
export const DONE = 0
export const FAILED = 1
export const USAGE = 2

/** The command line makes no sense: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** The command could not be done, and the message says all there is to say: no stack, exit code 1 if no other is given. */
export class CommandError extends Error {
  override readonly name = 'CommandError'
  readonly exitCode: number

  constructor(message: string, { exitCode = FAILED, ...options }: ErrorOptions & { exitCode?: number } = {}) {
    super(message, options)
    this.exitCode = exitCode
  }
}
