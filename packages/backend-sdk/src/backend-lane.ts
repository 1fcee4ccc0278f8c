import {
  close,
  EPOLLRDHUP,
  type NativeError,
  type OwnedFd,
  POLLHUP,
  poll,
  ReceiveBatch,
  type ReceivedMessage,
  SendBatch,
  sharedPoller,
} from '@baton/native-sendmsg'
import { TOKEN_LENGTH } from './protocol/index.ts'

/** As many lane messages are taken with one recvmmsg. */
export const LANE_BATCH = 64

/** The backend's end of its lane: descriptors come out of it, and go in when they are handed back. */
export interface BackendLane {
  /** Takes up to `max` messages (at most `LANE_BATCH`), never waiting. The caller owns their descriptors; `bytes` are overwritten by the next. */
  take(max: number): { messages: ReceivedMessage[]; error?: NativeError }
  /**
   * Sends connections that are handed back, each with its token, never waiting. The caller keeps its descriptors.
   *
   * @returns how many went, from the front
   */
  handBack(connections: readonly { readonly bytes: Buffer; readonly fd: number }[]): number
  /** Closes a descriptor that came from here. */
  discard(fd: number): void
  /** The send end is closed: what is in the queue now is the last, and nobody can read it back. */
  readonly ended: boolean
  /** Calls once when that has come; what it returns stops the waiting. */
  whenEnded(listener: () => void): () => void
  close(): void
}

const sending = new SendBatch(LANE_BATCH, TOKEN_LENGTH)

/** Owns `fd` from now on. */
export function openBackendLane(fd: OwnedFd): BackendLane {
  const arena = new ReceiveBatch(LANE_BATCH, TOKEN_LENGTH + 1)
  return {
    // Rule: NEVER_PEEK (docs/internals/model)
    take: (max) => arena.receiveViews(fd.fd, max),
    handBack: (connections) => sending.send(fd.fd, connections).sent,
    discard: (descriptor) => close(descriptor),
    get ended() {
      return (poll(fd.fd, 0) & POLLHUP) !== 0
    },
    whenEnded: (listener) => {
      const watch = sharedPoller().add(fd.fd, EPOLLRDHUP, () => {
        watch.remove()
        listener()
      })
      return () => watch.remove()
    },
    close: () => fd.close(),
  }
}
