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
import { type OperatorCommands, runCommand } from './commands.ts'
import { type Rights, OperatorSession } from '../../ipc/operator-session.ts'

/** Maximum sessions of operators, and of readers. More are a program that forgets to close them. */
const MAX_SESSIONS = 64
/** Maximum sessions of one reading user, so that other users can connect. */
const MAX_SESSIONS_PER_READER = 16
/** Maximum accepts per wake-up. The rest are reported again, after everything else that is ready. */
const MAX_ACCEPTS = 32
/** Pause after accept has failed for lack of descriptors, in ms. */
const PRESSURE_PAUSE_MS = 100

/** Accepts sessions on the operator's socket. Peers with this process's uid and root are operators; all other users are readers. */
export class Operator {
  #socket: OwnedFd
  readonly #poller: Poller
  readonly #commands: OperatorCommands
  readonly #sessions = new Set<OperatorSession>()
  readonly #awaitingEnd = new Set<OperatorSession>()
  readonly #uids = new WeakMap<OperatorSession, number>()
  #watch: Watch
  #resume: NodeJS.Timeout | undefined

  /** Borrows `socket`. */
  constructor(socket: OwnedFd, poller: Poller, commands: OperatorCommands) {
    this.#socket = socket
    this.#poller = poller
    this.#commands = commands
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
      for (const accepted of connections) this.#openSession(new OwnedFd(accepted.fd))
      if (error !== undefined) throw error
      // Its file is gone, so no more can arrive.
      if (connections.length < MAX_ACCEPTS) break
    }
    const watch = this.#poller.add(socket.fd, EPOLLIN, () => this.#accept())
    clearTimeout(this.#resume)
    this.#watch.remove()
    this.#watch = watch
    this.#socket = socket
  }

  /** Starts a session on a connection accepted before exec. Owns `fd`. */
  adopt(fd: OwnedFd): OperatorSession {
    return this.#begin(fd, peerOf(fd))
  }

  #begin(fd: OwnedFd, peer: { rights: Rights; peer: string }): OperatorSession {
    const session: OperatorSession = new OperatorSession(fd, peer, this.#poller, {
      line: (from, text) => runCommand(from, text.split(/\s+/), this.#commands),
      closed: (from) => void this.#sessions.delete(from),
    })
    this.#sessions.add(session)
    return session
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
    clearTimeout(this.#resume)
    this.#watch.remove()
    for (const session of this.#sessions) session.close()
  }

  #accept(): void {
    const { connections, error } = acceptMany(this.#socket.fd, MAX_ACCEPTS)
    let failure = error
    for (const accepted of connections) {
      const fd = new OwnedFd(accepted.fd)
      try {
        this.#openSession(fd)
      } catch (reason) {
        if (!(reason instanceof NativeError)) throw reason
        closeReachable(fd, true)
        failure ??= reason
      }
    }
    if (failure === undefined) return
    this.#watch.modify(0)
    this.#resume = setTimeout(() => this.#watch.modify(EPOLLIN), PRESSURE_PAUSE_MS)
  }

  /** Limits are separate, so readers cannot displace operators, nor one reading user another. */
  #openSession(fd: OwnedFd): void {
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
