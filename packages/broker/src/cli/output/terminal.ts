import type { ReadStream, WriteStream } from 'node:tty'

/** Where a command writes: results to `out`, messages for people to `err`. Each call writes one line. */
export interface Terminal {
  out(line: string): void
  err(line: string): void
  /** The terminal that `out` writes to, if it supports escape sequences; absent for a file or a pipe. */
  readonly display?: Display
  /** Aborted when `out` has no reader left. */
  readonly unread?: AbortSignal
}

/** An interactive terminal. */
export interface Display {
  readonly colours: boolean
  readonly output: WriteStream
  /** Opened on demand; undefined when standard input is not a terminal (`baton top </dev/null`). */
  keyboard(): ReadStream | undefined
}

/** The command line is invalid: exit code 2. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}
