import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { Address } from '../../config/address.ts'
import type { CopyStore } from '../workers/copy-store.ts'
import { FdStore, type FdStoreState } from './fd-store.ts'
import { addressWord, formatName, parseName } from './stored-names.ts'
import { type RestoredWaiting, restoreWaiting, type StoredFd } from './stored-waiting.ts'
import { WaitingStore } from './waiting-store.ts'

/** Timeouts for the manager to answer, in ms: before this process stops, and while it does. */
const ANSWER_TIMEOUT_MS = 1000
const LEAVE_TIMEOUT_MS = 3000

/** A listening socket that this broker has opened itself. */
export interface OwnSocket {
  /** Of the listener, or `admin`. */
  readonly name: string
  /** As configured. */
  readonly address: Address
  readonly fd: OwnedFd
}

/** Facts about the service manager's store; see `Notifier`. */
interface ManagerFacts {
  readonly socket: string | undefined
  readonly storeLimit: number | undefined
}

/**
 * Everything that the service manager keeps for the next start, whatever ends this one: listening sockets, and connections that wait. Borrows
 * descriptors.
 */
export class ManagerStore {
  readonly #store: FdStore
  readonly #waiting: WaitingStore
  readonly #listening = new Map<string, OwnedFd>()
  #isLeft = false

  /** @param state from the program before this one, or undefined */
  constructor(facts: ManagerFacts, poller: Poller, logger: Logger, state?: FdStoreState) {
    this.#store = new FdStore(facts, poller, logger, state)
    this.#waiting = new WaitingStore(this.#store)
  }

  /** In a new process. @param stored what the manager has passed to it */
  static start(
    facts: ManagerFacts,
    poller: Poller,
    logger: Logger,
    stored: readonly string[] = [],
  ): ManagerStore {
    return new ManagerStore(facts, poller, logger, { usable: stored.length > 0, stored, removed: [] })
  }

  /** After exec: the copies of what waits are stored again. */
  static resume(facts: ManagerFacts, poller: Poller, logger: Logger, state?: FdStoreState): ManagerStore {
    const store = new ManagerStore(facts, poller, logger, state)
    for (const name of state?.stored ?? []) if (parseName(name)?.kind !== 'listening') store.remove(name)
    return store
  }

  get copies(): CopyStore {
    return this.#waiting
  }

  get state(): FdStoreState {
    return this.#store.state
  }

  /** Finds out whether there is a store. */
  open(): void {
    void this.#store.open()
  }

  /** Owns the descriptors of `stored`. */
  restore(stored: readonly StoredFd[]): RestoredWaiting {
    return restoreWaiting(stored, (name) => this.remove(name))
  }

  remove(name: string): void {
    this.#store.remove(name)
  }

  /** Resolves when the manager has removed what it is to remove, or does not answer. */
  removed(): Promise<void> {
    return this.#store.settled(ANSWER_TIMEOUT_MS)
  }

  /** These sockets are in use from now on, and no others. */
  keepListening(sockets: readonly OwnSocket[]): void {
    if (this.#isLeft) return
    const wanted = new Map(
      sockets.map(({ name, address, fd }) => [
        formatName({ kind: 'listening', name, address: addressWord(address) }),
        fd,
      ]),
    )
    for (const name of this.#store.names) {
      if (parseName(name)?.kind !== 'listening' || wanted.has(name)) continue
      this.#store.remove(name)
      this.#listening.delete(name)
    }
    for (const [name, fd] of wanted) {
      const before = this.#listening.get(name)
      this.#listening.set(name, fd)
      // Stored by an earlier program or process, from which this one has it.
      if (before === fd || (before === undefined && this.#store.has(name))) continue
      this.#store.remove(name)
      this.#store.put(name, fd)
    }
  }

  /** Before a stop: whether everything can be left to the next start. If so, nothing of it is removed any more but what is over. */
  async prepareToLeave(): Promise<boolean> {
    await this.#store.settled(ANSWER_TIMEOUT_MS)
    const hasRoom = this.#store.usable && this.#store.room > this.#waiting.young
    this.#isLeft = hasRoom && (await this.#store.isKept(ANSWER_TIMEOUT_MS))
    return this.#isLeft
  }

  /** Stores the rest, right before this process ends. */
  async leave(): Promise<void> {
    this.#waiting.flush()
    await this.#store.settled(LEAVE_TIMEOUT_MS)
  }

  /** Before a stop that is meant: the next start gets nothing. */
  async forget(): Promise<void> {
    this.#isLeft = true
    for (const name of this.#store.names) this.#store.remove(name)
    await this.#store.settled(ANSWER_TIMEOUT_MS)
  }

  close(): void {
    this.#waiting.close()
    this.#store.close()
  }
}
