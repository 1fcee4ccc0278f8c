import { Endpoint, OwnedFd } from '@baton/native-sendmsg'
import type { OperatorSession } from '../../ipc/operator-session.ts'

/**
 * The socketpair that carries sessions over exec: their descriptors wait in the kernel until the next program receives them.
 *
 * Owner of the pair.
 */
export class SessionHandover {
  readonly #near: Endpoint
  readonly #far: Endpoint

  private constructor(near: Endpoint, far: Endpoint) {
    this.#near = near
    this.#far = far
  }

  /** @throws {NativeError} the pair cannot be created */
  static open(): SessionHandover {
    return new SessionHandover(...Endpoint.pair())
  }

  /** The pair of the previous program. Takes ownership of both descriptors. */
  static restore([near, far]: readonly [number, number]): SessionHandover {
    return new SessionHandover(new Endpoint(new OwnedFd(near)), new Endpoint(new OwnedFd(far)))
  }

  /** Descriptors that must survive exec. */
  get numbers(): [number, number] {
    return [this.#near.fd, this.#far.fd]
  }

  /**
   * Sends a duplicate; the session keeps its descriptor.
   *
   * @throws {NativeError}
   */
  sendSession({ fd }: OperatorSession): void {
    this.#near.sendFd(fd)
  }

  /**
   * Receives the first session. The caller owns the descriptor.
   *
   * @throws {NativeError} EAGAIN: the pair is empty
   */
  receiveSession(): OwnedFd {
    return this.#far.recvFdNonblock()
  }

  close(): void {
    this.#near.destroy()
    this.#far.destroy()
  }
}
