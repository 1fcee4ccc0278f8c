import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import { describeError, withoutMaster } from '../../errors.ts'
import { CLAIM } from '../../ipc/claim.ts'
import { answerText, refusal } from '../../ipc/operator-protocol.ts'
import type { OperatorSession } from '../../ipc/operator-session.ts'
import { OperatorSessions } from '../../ipc/operator-sessions.ts'

/** Requests of operators to a worker without a master. */
export interface ReceptionHost {
  status(): unknown
  /** Answers the session itself when everything has stopped. */
  stop(session: OperatorSession): void
  /** The peer is the next master: to be answered on this session's socket, which is closed afterwards. */
  claim(session: OperatorSession): void
}

/** Answers operators on `master.sock` for a worker whose master was killed, until another one claims the worker. */
export class Reception {
  readonly #host: ReceptionHost
  readonly #sessions: OperatorSessions

  /** Borrows `socket`. */
  constructor(socket: OwnedFd, poller: Poller, host: ReceptionHost) {
    this.#host = host
    this.#sessions = new OperatorSessions(socket, poller, (from, line) => this.#run(from, line))
  }

  /** Accepts no more. Open sessions end with their answers. */
  close(): void {
    this.#sessions.stopAccepting()
  }

  #run(session: OperatorSession, line: string): void {
    const [command = ''] = line.split(/\s+/)
    if (command === 'quit') return session.end()
    if (command === 'status') {
      session.write(`${JSON.stringify(this.#host.status())}\n`)
      return session.answered()
    }
    const { success, log } = refusal(
      session.rights === 'operator'
        ? describeError(withoutMaster())
        : "permission denied: only the broker's user or root may do that",
    )
    if (session.rights === 'operator' && command === 'stop') return this.#host.stop(session)
    if (session.rights === 'operator' && command === CLAIM) return this.#host.claim(session)
    session.write(answerText(success, log))
    session.answered()
  }
}
