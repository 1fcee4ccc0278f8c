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

/** Maximum lane messages per recvmmsg. */
export const LANE_BATCH = 64

/** The backend's end of its lane: it receives descriptors, and sends those that it hands back. */
export interface BackendLane {
  /** Receives up to `max` messages (at most `LANE_BATCH`) without waiting. The caller owns their descriptors; the next call overwrites `bytes`. */
  take(max: number): { messages: ReceivedMessage[]; error?: NativeError }
  /**
   * Sends connections that are handed back, each with its token, never waiting. The caller keeps its descriptors.
   *
   * @returns how many went, from the front
   */
  handBack(connections: readonly { readonly bytes: Buffer; readonly fd: number }[]): number
  /** Closes a descriptor that was received from this lane. */
  discard(fd: number): void
  /** The other end is closed: no message will be added to the queue, and no other process can read it back. */
  readonly ended: boolean
  /** Calls `listener` once, when `ended` becomes true. @returns cancels the wait */
  whenEnded(listener: () => void): () => void
  close(): void
}

const sending = new SendBatch(LANE_BATCH, TOKEN_LENGTH)

/** Takes ownership of `fd`. */
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
