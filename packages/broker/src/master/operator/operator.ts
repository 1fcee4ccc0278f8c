import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import { type OperatorCommands, runCommand } from './commands.ts'
import type { OperatorSession } from '../../ipc/operator-session.ts'
import { OperatorSessions } from '../../ipc/operator-sessions.ts'

/** Runs the commands of operators and readers, and keeps those that wait for the broker to stop. */
export class Operator {
  readonly #sessions: OperatorSessions
  readonly #awaitingEnd = new Set<OperatorSession>()

  /** Borrows `socket`. */
  constructor(socket: OwnedFd, poller: Poller, commands: OperatorCommands) {
    this.#sessions = new OperatorSessions(socket, poller, (from, text) =>
      runCommand(from, text.split(/\s+/), commands),
    )
  }

  /** See `OperatorSessions`. @throws {NativeError}; then the old socket stays in use */
  replaceSocket(socket: OwnedFd): void {
    this.#sessions.replaceSocket(socket)
  }

  /** Starts a session on a connection accepted before exec. Owns `fd`. */
  adopt(fd: OwnedFd): OperatorSession {
    return this.#sessions.adopt(fd)
  }

  /** Adds a session that waits for the broker to stop. */
  awaitEnd(session: OperatorSession): void {
    this.#awaitingEnd.add(session)
  }

  /** Sends a progress line to the sessions that wait for the stop. */
  broadcast(line: string): void {
    for (const session of this.#awaitingEnd) session.write(`${line}\n`)
  }

  /** Sends the answer to the sessions that wait for the stop. */
  finish(text: string): void {
    for (const session of this.#awaitingEnd) session.write(text)
  }

  close(): void {
    this.#sessions.close()
  }
}
