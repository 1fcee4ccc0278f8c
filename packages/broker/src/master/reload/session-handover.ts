import { Endpoint, OwnedFd } from '@baton/native-sendmsg'
import type { OperatorSession } from '../operator/operator-session.ts'

/**
 * The socketpair through which sessions that ask for a reload go: they wait in the kernel while there is no program to have them.
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

  /** @throws {NativeError} the pair cannot be made */
  static open(): SessionHandover {
    return new SessionHandover(...Endpoint.pair())
  }

  /** The pair of the program before this one. */
  static restore([near, far]: readonly [number, number]): SessionHandover {
    return new SessionHandover(new Endpoint(new OwnedFd(near)), new Endpoint(new OwnedFd(far)))
  }

  /** What has to live on over exec. */
  get numbers(): [number, number] {
    return [this.#near.fd, this.#far.fd]
  }

  /**
   * Puts in a duplicate: the session keeps what it has.
   *
   * @throws {NativeError}
   */
  sendSession({ fd }: OperatorSession): void {
    this.#near.sendFd(fd)
  }

  /**
   * Takes the first one out again. The caller owns it.
   *
   * @throws {NativeError} EAGAIN: nothing is in it
   */
  receiveSession(): OwnedFd {
    return this.#far.recvFdNonblock()
  }

  close(): void {
    this.#near.destroy()
    this.#far.destroy()
  }
}
