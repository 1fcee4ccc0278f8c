import { OwnedFd, type BorrowedFd } from './descriptors.ts'
import { EAGAIN } from './errno.ts'
import { BatonNativeError, NativeError, UnexpectedEndError } from './errors.ts'
import { receiveMessage, sendMessage } from './message.ts'
import { sharedPoller } from './poller.ts'
import { shutdownBoth, socketpair } from './sockets.ts'
import { EPOLLIN, type Watch } from './watch.ts'

/** The byte sent with each descriptor. */
const CARRIER = Buffer.from([0])

interface Waiter {
  resolve(fd: OwnedFd): void
  reject(error: unknown): void
}

/**
 * One end of a channel for descriptors: a seqpacket socket on which every message is one byte and one
 * descriptor.
 *
 * `sendFd`, `recvFdNonblock` and `shutdown` may be called at any time while a `recvFd` is pending. Several
 * `recvFd` may be pending, and are served in order. After `destroy`, only `destroy` may be called; a pending
 * `recvFd` rejects with BATON_ERR_FD_CLOSED.
 */
export class Endpoint {
  readonly #socket: OwnedFd
  readonly #waiters: Waiter[] = []
  #watch: Watch | undefined

  /** Two connected endpoints, CLOEXEC from birth; the caller destroys both. */
  static pair(): [Endpoint, Endpoint] {
    const [first, second] = socketpair('seqpacket')
    return [new Endpoint(first), new Endpoint(second)]
  }

  /** Takes ownership of a connected seqpacket socket. */
  constructor(fd: OwnedFd) {
    this.#socket = fd
  }

  /** Borrowed, for example for `stdio` of a child. BATON_ERR_FD_CLOSED after `destroy`. */
  get fd(): BorrowedFd {
    return this.#socket.fd
  }

  /**
   * Sends a duplicate of `fd`; the caller keeps its own. Never blocks: NativeError EAGAIN if the channel
   * is full, EPIPE after a shutdown.
   */
  sendFd(fd: BorrowedFd): void {
    sendMessage(this.fd, { bytes: CARRIER, fds: [fd] })
  }

  /**
   * Waits for the next descriptor, CLOEXEC from birth and owned by the caller. Rejects with the errors of
   * `recvFdNonblock` except EAGAIN, or with the signal's reason.
   */
  recvFd(options: { signal?: AbortSignal | undefined } = {}): Promise<OwnedFd> {
    const { signal } = options
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      if (this.#waiters.length === 0) {
        const received = this.#receive()
        if (received !== undefined) {
          resolve(received)
          return
        }
      }
      this.#watch ??= sharedPoller().add(this.fd, EPOLLIN, () => this.#serve())
      const waiter = withAbort({ resolve, reject }, signal, () => this.#abandon(waiter))
      this.#waiters.push(waiter)
    })
  }

  /**
   * Receives the next descriptor, owned by the caller. NativeError EAGAIN if none is queued. UnexpectedEndError
   * once the channel is empty, and shut down or closed at the other end. BATON_ERR_NO_DESCRIPTOR,
   * BATON_ERR_CONTROL_INVALID (more than one descriptor, another level or type) and BATON_ERR_CONTROL_TRUNCATED
   * for an invalid message, which is consumed and its descriptors closed.
   */
  recvFdNonblock(): OwnedFd {
    const received = this.#receive()
    if (received === undefined) throw new NativeError('recvmsg', EAGAIN, { fd: this.fd })
    return received
  }

  /**
   * Shuts down both directions: pending receives at both ends return. Closes nothing; descriptors sent before
   * can still be received.
   */
  shutdown(): void {
    shutdownBoth(this.fd)
  }

  /** Closes the socket; a second call does nothing. */
  destroy(): void {
    if (this.#socket.closed) return
    this.#unwatch()
    this.#socket.close()
    for (const waiter of this.#waiters.splice(0)) waiter.reject(new BatonNativeError('BATON_ERR_FD_CLOSED'))
  }

  #receive(): OwnedFd | undefined {
    const message = receiveMessage(this.fd, { size: 1, maxFds: 1 })
    if (message === undefined) return undefined
    const [received] = message.fds
    if (received !== undefined && message.surplus === 0 && !message.controlTruncated) return received
    received?.close()
    if (message.controlTruncated) throw new BatonNativeError('BATON_ERR_CONTROL_TRUNCATED', `fd ${this.fd}`)
    if (received !== undefined) {
      throw new BatonNativeError(
        'BATON_ERR_CONTROL_INVALID',
        `got ${1 + message.surplus} descriptors, wanted 1`,
      )
    }
    if (message.bytes.length === 0) throw new UnexpectedEndError(this.fd, 0, 1)
    throw new BatonNativeError('BATON_ERR_NO_DESCRIPTOR', `fd ${this.fd}`)
  }

  #serve(): void {
    while (this.#waiters[0] !== undefined) {
      const waiter = this.#waiters[0]
      try {
        const received = this.#receive()
        if (received === undefined) return
        this.#waiters.shift()
        waiter.resolve(received)
      } catch (error) {
        this.#waiters.shift()
        waiter.reject(error)
      }
    }
    this.#unwatch()
  }

  #abandon(waiter: Waiter): void {
    const index = this.#waiters.indexOf(waiter)
    if (index !== -1) this.#waiters.splice(index, 1)
    if (this.#waiters.length === 0) this.#unwatch()
  }

  #unwatch(): void {
    this.#watch?.remove()
    this.#watch = undefined
  }
}

/** Rejects the waiter on abort, after calling `abandon`. The abort listener is removed when the waiter settles. */
function withAbort(waiter: Waiter, signal: AbortSignal | undefined, abandon: () => void): Waiter {
  if (signal === undefined) return waiter
  const abort = (): void => {
    abandon()
    waiter.reject(signal.reason)
  }
  signal.addEventListener('abort', abort, { once: true })
  const release = (): void => signal.removeEventListener('abort', abort)
  return {
    resolve: (fd) => {
      release()
      waiter.resolve(fd)
    },
    reject: (error) => {
      release()
      waiter.reject(error)
    },
  }
}
