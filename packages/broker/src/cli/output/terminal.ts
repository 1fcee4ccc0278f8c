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

/** The command line makes no sense: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}
