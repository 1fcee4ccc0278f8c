import { type OwnedFd, peek, poll, POLLHUP, POLLIN, readToEnd, send, socketpair } from '@baton/native-sendmsg'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'

/**
 * A client whose connection the test passes on itself: a socketpair with a request on it. The test keeps a copy of the
 * passed end, and so can check what the receiver has done to it.
 */
export class PassedClient {
  readonly #request: Buffer
  readonly #near: OwnedFd
  readonly #far: OwnedFd
  #answer = ''

  /** @param speaks false: its first request is the first `again` */
  constructor(t: Test, path = '/', speaks = true) {
    ;[this.#near, this.#far] = socketpair('stream')
    this.#request = Buffer.from(`GET ${path} HTTP/1.1\r\nHost: app\r\n\r\n`)
    if (speaks) send(this.#near.fd, this.#request)
    t.teardown(() => this.leave())
  }

  /** The end to pass on. */
  get fd(): number {
    return this.#far.fd
  }

  /** No byte was read from the passed end, and none was written to it. */
  get untouched(): boolean {
    return (
      peek(this.#far.fd, 65_536)?.equals(this.#request) === true &&
      (poll(this.#near.fd, POLLIN) & POLLIN) === 0
    )
  }

  /** The response so far. */
  get answer(): string {
    if ((poll(this.#near.fd, POLLIN) & POLLIN) !== 0) this.#answer += readToEnd(this.#near.fd).data.toString()
    return this.#answer
  }

  /** Sends the same request again on the same connection. */
  again(): void {
    this.#answer = ''
    send(this.#near.fd, this.#request)
  }

  /** The pid of the backend that answered; the response is one JSON object. */
  async servedBy(): Promise<number> {
    await eventually(
      () => this.answer.endsWith('}'),
      () => `an answer; there came ${JSON.stringify(this.answer)}`,
    )
    return Number(/"pid":(\d+)/.exec(this.answer)?.[1])
  }

  /**
   * Closes the test's own copy and waits until the kernel reports that no copy is left; returns what the client received.
   * Fails if a copy leaked, because that keeps the connection open.
   */
  async closed(): Promise<string> {
    this.#far.close()
    await eventually(
      () => (poll(this.#near.fd, 0) & POLLHUP) !== 0,
      'every copy of the passed connection is closed',
    )
    return this.answer
  }

  /** The client disconnects; whatever process adopted the connection sees its end. May be called twice. */
  leave(): void {
    this.#near.close()
    this.#far.close()
  }
}
