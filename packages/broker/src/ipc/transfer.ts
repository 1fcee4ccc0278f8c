import { OwnedFd, type Poller } from '@baton/native-sendmsg'
import { Channel } from './channel.ts'
import type { FromReceiver, HeldClient, HeldClients } from './messages.ts'

/** Outcome of the connections of one message: one of both, once, never within `send`. Either owns the descriptors, and closes those that it does not need. */
export interface Fate {
  /** The other end has them. Closing a descriptor here must not block: its open file may be a backend's by now. */
  taken(fds: readonly OwnedFd[]): void
  /** The other end has died before it has taken them, or they could not be sent. */
  back(fds: readonly OwnedFd[]): void
}

interface Batch {
  readonly number: number
  readonly fds: readonly OwnedFd[]
  readonly fate: Fate
  /** It was not sent, and will not be. */
  isUnsent: boolean
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
        for (const { fds, fate } of this.#pending.splice(0)) fate.back(fds)
        this.#settle()
        host.ended?.()
      },
    })
  }

  /** False once the other end is known to be gone, or the kernel has refused to send something. */
  get open(): boolean {
    return this.#channel.open
  }

  /** Some are on their way. */
  get pending(): boolean {
    return this.#pending.length > 0
  }

  /** Owns the descriptors. */
  send(clients: readonly HeldClient[], fds: readonly OwnedFd[], fate: Fate): void {
    if (!this.#confirms) return this.#give(clients, fds, fate)
    const number = (this.#numbers += 1)
    const own = fds.map((fd) => new OwnedFd(fd.release()))
    const batch = { number, fds: own, fate, isUnsent: false }
    this.#pending.push(batch)
    this.#channel.lend(
      { type: 'held', clients, number },
      own.map(({ fd }) => fd),
      () => {
        batch.isUnsent = true
        this.#giveBack()
      },
    )
  }

  /** The kernel has all that was sent, and room for more. */
  get hasRoom(): boolean {
    return this.#channel.hasRoom
  }

  /** Resolves when there is room for more, or the other end is gone. */
  room(): Promise<void> {
    return this.#channel.room()
  }

  /** Resolves when the other end has taken everything, or is gone and the rest is back. */
  async settled(): Promise<void> {
    await this.#channel.sent()
    if (this.#pending.length > 0) await new Promise<void>((resolve) => this.#settled.push(resolve))
  }

  /** Connections that the other end has not read yet it can still take; those that are not sent yet are lost. */
  close(): void {
    this.#channel.close()
    for (const { fds, fate } of this.#pending.splice(0)) fate.taken(fds)
    this.#settle()
  }

  /** The kernel has them, or nothing has. */
  #give(clients: readonly HeldClient[], fds: readonly OwnedFd[], fate: Fate): void {
    let isBack = false
    this.#channel.give({ type: 'held', clients }, fds, (those) => {
      isBack = true
      fate.back(those)
    })
    void this.#channel.sent().then(() => isBack || fate.taken([]))
  }

  /** @param last number of the last batch that was taken */
  #taken(last: number): void {
    while ((this.#pending[0]?.number ?? Number.POSITIVE_INFINITY) <= last) {
      const { fds, fate } = this.#pending.shift() as Batch
      fate.taken(fds)
    }
    this.#giveBack()
  }

  /** Those that were not sent, after those that were: in order. */
  #giveBack(): void {
    while (this.#pending[0]?.isUnsent === true) {
      const { fds, fate } = this.#pending.shift() as Batch
      fate.back(fds)
    }
    if (this.#pending.length === 0) this.#settle()
  }

  #settle(): void {
    for (const resolve of this.#settled.splice(0)) resolve()
  }
}
