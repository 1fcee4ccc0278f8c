import { TOKEN_LENGTH } from '@baton/backend-sdk/protocol'
import {
  close,
  closeReachable,
  type NativeError,
  type OwnedFd,
  ReceiveBatch,
  refuseDescriptors,
  SendBatch,
  socketpair,
} from '@baton/native-sendmsg'

export interface LaneMessage {
  readonly bytes: Buffer
  readonly fd: number
}

const BATCH = 64

/** The broker's side of a lane; see `Lane`. */
export interface HandoffLane {
  send(messages: readonly LaneMessage[]): { sent: number; error?: NativeError }
  readBack(): { tokens: Buffer[]; error?: NativeError }
  close(): void
}

/** Shared by all lanes of the process: a batch is prepared and sent within one call. */
const sending = new SendBatch(BATCH, TOKEN_LENGTH)
const receiving = new ReceiveBatch(BATCH, TOKEN_LENGTH)

/**
 * The private channel that carries descriptors to one backend: a SOCK_SEQPACKET pair. The backend gets a duplicate of the receive
 * end with WELCOME; the broker keeps its own, to read back messages that the backend has not taken. Receiving is atomic in the
 * kernel: exactly one of the two gets a message.
 */
export class Lane implements HandoffLane {
  readonly #sendEnd: OwnedFd
  readonly #receiveEnd: OwnedFd

  constructor() {
    ;[this.#sendEnd, this.#receiveEnd] = socketpair('seqpacket')
    // The backend could send descriptors the other way. They are never read, and are closed with this end.
    refuseDescriptors(this.#sendEnd.fd)
  }

  /** Sent with WELCOME; owned by the lane. */
  get receiveEnd(): number {
    return this.#receiveEnd.fd
  }

  /** Sends as many as the queue takes; the caller keeps its descriptors. `error` says why the rest was not sent. */
  send(messages: readonly LaneMessage[]): { sent: number; error?: NativeError } {
    return sending.send(this.#sendEnd.fd, messages)
  }

  /**
   * Reads back all messages that the backend has not taken, and closes the duplicates in them; the broker still has its own
   * descriptor of each connection. Returns the tokens, oldest first; with an error, those read until then.
   */
  readBack(): { tokens: Buffer[]; error?: NativeError } {
    const tokens: Buffer[] = []
    for (;;) {
      const { messages, error } = receiving.receive(this.#receiveEnd.fd, BATCH)
      for (const { bytes, fds } of messages) {
        for (const fd of fds) close(fd)
        tokens.push(bytes)
      }
      if (error) return { tokens, error }
      if (messages.length < BATCH) return { tokens }
    }
  }

  /** Receive end first: when the backend sees the end of the lane, it must be its only reader. */
  close(): void {
    // Rule: LANE_EOF (docs/internals/model)
    this.#receiveEnd.close()
    closeReachable(this.#sendEnd, true)
  }
}
