import {
  acceptMany,
  closeReachable,
  EPOLLIN,
  NativeError,
  OwnedFd,
  peerCredentials,
  type Poller,
  refuseDescriptors,
  type Watch,
} from '@baton/native-sendmsg'
import { OperatorSession, type Rights } from './operator-session.ts'

/** Maximum sessions of operators, and of readers. More are a program that forgets to close them. */
const MAX_SESSIONS = 64
/** Maximum sessions of one reading user, so that other users can connect. */
const MAX_SESSIONS_PER_READER = 16
/** Maximum accepts per wake-up. The rest are reported again, after everything else that is ready. */
const MAX_ACCEPTS = 32
/** Pause after accept has failed for lack of descriptors, in ms. */
const PRESSURE_PAUSE_MS = 100

/** Accepts sessions on the operator's socket. Peers with this process's uid and root are operators; all other users are readers. */
export class OperatorSessions {
  #socket: OwnedFd
  readonly #poller: Poller
  readonly #line: (session: OperatorSession, text: string) => void
  readonly #sessions = new Set<OperatorSession>()
  readonly #uids = new WeakMap<OperatorSession, number>()
  #watch: Watch
  #resume: NodeJS.Timeout | undefined

  /**
   * Borrows `socket`.
   *
   * @param line see `OperatorSessionHost`
   */
  constructor(socket: OwnedFd, poller: Poller, line: (session: OperatorSession, text: string) => void) {
    this.#socket = socket
    this.#poller = poller
    this.#line = line
    refuseDescriptors(socket.fd)
    this.#watch = poller.add(socket.fd, EPOLLIN, () => this.#accept())
  }

  /**
   * Accepts on `socket` from now on, after everything that is still queued on the old socket, which the caller may then close.
   *
   * @throws {NativeError}; then the old socket stays in use
   */
  replaceSocket(socket: OwnedFd): void {
    for (;;) {
      const { connections, error } = acceptMany(this.#socket.fd, MAX_ACCEPTS)
      for (const accepted of connections) this.#open(new OwnedFd(accepted.fd))
      if (error !== undefined) throw error
      // Its file is gone, so no more can arrive.
      if (connections.length < MAX_ACCEPTS) break
    }
    const watch = this.#poller.add(socket.fd, EPOLLIN, () => this.#accept())
    this.stopAccepting()
    this.#watch = watch
    this.#socket = socket
  }

  /** Starts a session on a connection accepted before exec. Owns `fd`. */
  adopt(fd: OwnedFd): OperatorSession {
    return this.#begin(fd, peerOf(fd))
  }

  /** Open sessions go on, each until it has its answer. */
  stopAccepting(): void {
    clearTimeout(this.#resume)
    this.#watch.remove()
  }

  close(): void {
    this.stopAccepting()
    for (const session of this.#sessions) session.close()
  }

  #begin(fd: OwnedFd, peer: { rights: Rights; peer: string }): OperatorSession {
    const session: OperatorSession = new OperatorSession(fd, peer, this.#poller, {
      line: this.#line,
      closed: (from) => void this.#sessions.delete(from),
    })
    this.#sessions.add(session)
    return session
  }

  #accept(): void {
    const { connections, error } = acceptMany(this.#socket.fd, MAX_ACCEPTS)
    let failure = error
    for (const accepted of connections) {
      const fd = new OwnedFd(accepted.fd)
      try {
        this.#open(fd)
      } catch (reason) {
        if (!(reason instanceof NativeError)) throw reason
        closeReachable(fd, true)
        failure ??= reason
      }
    }
    if (failure === undefined) return
    const watch = this.#watch
    watch.modify(0)
    this.#resume = setTimeout(() => watch.modify(EPOLLIN), PRESSURE_PAUSE_MS)
  }

  /** Limits are separate, so readers cannot displace operators, nor one reading user another. */
  #open(fd: OwnedFd): void {
    const { rights, peer, uid } = peerOf(fd)
    let same = 0
    let own = 0
    for (const session of this.#sessions) {
      if (session.rights === rights) same += 1
      if (this.#uids.get(session) === uid) own += 1
    }
    if (same >= MAX_SESSIONS || (rights === 'reader' && own >= MAX_SESSIONS_PER_READER))
      return closeReachable(fd, true)
    this.#uids.set(this.#begin(fd, { rights, peer }), uid)
  }
}

function peerOf(fd: OwnedFd): { rights: Rights; peer: string; uid: number } {
  const { uid, pid } = peerCredentials(fd.fd)
  return {
    uid,
    rights: uid === 0 || uid === process.getuid?.() ? 'operator' : 'reader',
    peer: `uid ${uid} (pid ${pid})`,
  }
}
