import {
  acceptMany,
  EPOLLIN,
  OwnedFd,
  peerCredentials,
  type Poller,
  refuseDescriptors,
  type Watch,
} from '@baton/native-sendmsg'
import { CLAIM } from '../../ipc/claim.ts'
import { answerText, refusal } from '../../ipc/operator-protocol.ts'
import { OperatorSession } from '../../ipc/operator-session.ts'

/** Maximum sessions at a time. */
const MAX_SESSIONS = 64
/** Maximum accepts per wake-up. */
const MAX_ACCEPTS = 32

const NO_MASTER = 'the broker has no master, because it was killed; "baton start" takes over from it'

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
  readonly #socket: OwnedFd
  readonly #poller: Poller
  readonly #host: ReceptionHost
  readonly #watch: Watch
  readonly #sessions = new Set<OperatorSession>()

  /** Borrows `socket`. */
  constructor(socket: OwnedFd, poller: Poller, host: ReceptionHost) {
    this.#socket = socket
    this.#poller = poller
    this.#host = host
    refuseDescriptors(socket.fd)
    this.#watch = poller.add(socket.fd, EPOLLIN, () => this.#accept())
  }

  /** Accepts no more. Open sessions end with their answers. */
  close(): void {
    this.#watch.remove()
  }

  #accept(): void {
    for (const { fd } of acceptMany(this.#socket.fd, MAX_ACCEPTS).connections) this.#open(new OwnedFd(fd))
  }

  #open(fd: OwnedFd): void {
    const { uid, pid } = peerCredentials(fd.fd)
    const rights = uid === 0 || uid === process.getuid?.() ? 'operator' : 'reader'
    if (this.#sessions.size >= MAX_SESSIONS) return fd.close()
    const session = new OperatorSession(fd, { rights, peer: `uid ${uid} (pid ${pid})` }, this.#poller, {
      line: (from, line) => this.#run(from, line),
      closed: (from) => void this.#sessions.delete(from),
    })
    this.#sessions.add(session)
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
        ? NO_MASTER
        : "permission denied: only the broker's user or root may do that",
    )
    if (session.rights === 'operator' && command === 'stop') return this.#host.stop(session)
    if (session.rights === 'operator' && command === CLAIM) return this.#host.claim(session)
    session.write(answerText(success, log))
    session.answered()
  }
}
