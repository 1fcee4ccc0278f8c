import { TOKEN_LENGTH } from '@baton/backend-sdk/protocol'
import {
  close,
  closeAside,
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
  /** Takes up to `max` connections that the backend hands back; the caller owns the descriptors. */
  takeHandBacks(max: number): LaneArrival[]
  close(): void
}

/** One message that a backend has sent on its lane. */
export interface LaneArrival {
  readonly bytes: Buffer
  readonly length: number
  readonly fds: readonly number[]
  /** Descriptors were lost on arrival: more were sent than have room, or this process may open no more. */
  readonly controlTruncated: boolean
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
  readonly #handsBack: boolean

  /** @param handsBack whether the backend may send descriptors as well */
  constructor(handsBack = false) {
    ;[this.#sendEnd, this.#receiveEnd] = socketpair('seqpacket')
    this.#handsBack = handsBack
    // The backend could send descriptors the other way. They would never be read, and closed with this end.
    if (!handsBack) refuseDescriptors(this.#sendEnd.fd)
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

  takeHandBacks(max: number): LaneArrival[] {
    const taken: LaneArrival[] = []
    while (taken.length < max) {
      const wanted = Math.min(BATCH, max - taken.length)
      const { messages } = receiving.receive(this.#sendEnd.fd, wanted)
      taken.push(...messages)
      if (messages.length < wanted) break
    }
    return taken
  }

  /** Receive end first: when the backend sees the end of the lane, it must be its only reader. */
  close(): void {
    // Rule: LANE_EOF (docs/internals/model)
    this.#receiveEnd.close()
    // Messages of the backend that were never read are closed with it, which may block: any descriptor, with any SO_LINGER. Another
    // thread waits.
    if (this.#handsBack && !this.#sendEnd.closed) closeAside(this.#sendEnd)
    else closeReachable(this.#sendEnd, true)
  }
}
