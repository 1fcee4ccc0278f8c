import { OwnedFd, type Poller } from '@baton/native-sendmsg'
import { Channel } from './channel.ts'
import type { FromReceiver, HeldClient, HeldClients } from './messages.ts'

/** The connections of one message. */
interface Batch {
  readonly number: number
  /** Owned. */
  readonly fds: readonly OwnedFd[]
  readonly back: (fds: readonly OwnedFd[]) => void
}

export interface TransferHost {
  /** The other end goes on without a master. */
  goesOn?(): void
  /** The other end is gone. What it has not taken is back. */
  ended?(): void
}

/**
 * Connections on their way to another worker, over a pair. Each stays here as well until that worker has taken it, which it says before it does anything with it. So if it dies,
 * what it has not taken is here again, and nothing else is.
 *
 * Owns its end of the pair, and the descriptors until they are taken.
 */
export class Transfer {
  readonly #channel: Channel<FromReceiver, HeldClients>
  readonly #confirms: boolean
  /** In order. */
  readonly #pending: Batch[] = []
  #numbers = 0
  #settled: (() => void)[] = []

  /**
   * Takes ownership of `socket`.
   *
   * @param confirms the other end says what it has taken. One of an older version has taken what the kernel has
   */
  constructor(socket: OwnedFd, poller: Poller, confirms: boolean, host: TransferHost = {}) {
    this.#confirms = confirms
    this.#channel = new Channel<FromReceiver, HeldClients>(socket, poller, {
      message: (message) => {
        if (message.type === 'taken') this.#taken(message.number)
        else host.goesOn?.()
      },
      ended: () => {
        for (const { fds, back } of this.#pending.splice(0)) back(fds)
        this.#settle()
        host.ended?.()
      },
    })
  }

  /** False once the other end is known to be gone. */
  get open(): boolean {
    return this.#channel.open
  }

  /**
   * Owns the descriptors.
   *
   * @param back gets them back if the other end dies before it has taken them, never within this call
   */
  send(
    clients: readonly HeldClient[],
    fds: readonly OwnedFd[],
    back: (fds: readonly OwnedFd[]) => void,
  ): void {
    if (!this.#confirms) return this.#channel.give({ type: 'held', clients }, fds, back)
    const number = (this.#numbers += 1)
    const own = fds.map((fd) => new OwnedFd(fd.release()))
    this.#pending.push({ number, fds: own, back })
    this.#channel.lend(
      { type: 'held', clients, number },
      own.map(({ fd }) => fd),
    )
  }

  /** Resolves when there is room for more, or the other end is gone. */
  room(): Promise<void> {
    return this.#channel.sent()
  }

  /** Resolves when the other end has taken everything, or is gone and the rest is back. */
  async settled(): Promise<void> {
    await this.#channel.sent()
    if (this.#pending.length > 0) await new Promise<void>((resolve) => this.#settled.push(resolve))
  }

  /** Call it when everything is taken: what is not is lost. */
  close(): void {
    this.#channel.close()
    for (const { fds } of this.#pending.splice(0)) for (const fd of fds) fd.close()
    this.#settle()
  }

  /** @param last number of the last batch that was taken */
  #taken(last: number): void {
    while ((this.#pending[0]?.number ?? Number.POSITIVE_INFINITY) <= last)
      for (const fd of (this.#pending.shift() as Batch).fds) fd.close()
    if (this.#pending.length === 0) this.#settle()
  }

  #settle(): void {
    for (const resolve of this.#settled.splice(0)) resolve()
  }
}
