import { readFileSync } from 'node:fs'
import {
  closeAll,
  closeReachable,
  createMemoryFile,
  NativeError,
  OwnedFd,
  type Poller,
  socketpair,
} from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { Channel } from '../../ipc/channel.ts'
import {
  type Account,
  clearMarks,
  type Copy,
  type FromCopier,
  readAccounts,
  readMarks,
  readPulse,
  type ToCopier,
  type WorkerAccounts,
} from '../../ipc/copies.ts'
import type { HeldClient } from '../../ipc/messages.ts'
import { type CopyStore, noStore, type StoredCopies } from './copy-store.ts'
import { KeptCopy, type Origin, type Survivor } from './kept-copy.ts'

/** Everything that outlives a worker. */
export interface Remains {
  readonly survivors: readonly Survivor[]
  readonly accounts: WorkerAccounts
  /** To be called right before the survivors go anywhere: until then, they would outlive this process as well. */
  readonly release: () => void
}

/** The part that crosses the master's exec. */
export interface WorkerCopiesState {
  readonly channel: number
  readonly file: number
  /** Of the numbers in the file. Absent in the state of an older program. */
  readonly layout?: readonly Account[]
  /** Absent if the copies are to be sent again: one of the two programs is of an older version. */
  readonly kept?: {
    readonly layout: readonly Account[]
    readonly copies: readonly (Omit<Survivor, 'fd'> & { readonly fd: number })[]
  }
}

/** A second place for the copies of a worker, which has this key there (`workerKey`). */
export interface KeptAs {
  readonly store: CopyStore
  readonly worker: string
}

const NOT_KEPT: KeptAs = { store: noStore, worker: '' }

/**
 * Part of this process's descriptors that the copies of one worker may use: as much as a worker has for idle connections. Two workers have no more together
 * than clients are connected, because what moves from one to the other is copied there and closed here.
 */
const SHARE = 0.75

/**
 * The master's copies of the connections that wait in one worker (`ipc/copies.ts`). Owns them, its end of the stream, and the memory file.
 */
export class WorkerCopies {
  readonly #file: OwnedFd
  readonly #channel: Channel<FromCopier, ToCopier>
  readonly #stored: StoredCopies
  /** By slot. */
  #copies: (KeptCopy | undefined)[] = []
  #size = 0
  readonly #origins: Origin[] = []
  #layout: readonly Account[] = []
  /** Names of listeners on TCP. */
  readonly #tcp = new Set<string>()
  #ended = false
  #complete = false

  /**
   * @param kept where the copies are kept as well, and the worker's key there
   * @returns also the worker's ends, which the caller owns
   * @throws {NativeError}
   */
  static create(
    poller: Poller,
    logger: Logger,
    ended: () => void,
    kept: KeptAs = NOT_KEPT,
  ): [copies: WorkerCopies, theirs: readonly [OwnedFd, OwnedFd]] {
    const file = createMemoryFile('baton-worker-copies')
    let ends: [OwnedFd, OwnedFd]
    try {
      ends = socketpair('stream')
    } catch (error) {
      file.close()
      throw error
    }
    return [new WorkerCopies(ends[0], file, poller, logger, ended, kept), [ends[1], file]]
  }

  /** After exec. Owns the descriptors. */
  static adopt(
    { channel, file, layout, kept: saved }: WorkerCopiesState,
    poller: Poller,
    logger: Logger,
    ended: () => void,
    kept: KeptAs = NOT_KEPT,
  ): WorkerCopies {
    const copies = new WorkerCopies(new OwnedFd(channel), new OwnedFd(file), poller, logger, ended, kept)
    copies.#know(layout ?? saved?.layout ?? [])
    if (saved === undefined) copies.#channel.send({ type: 'again' })
    else for (const { copy, fd } of saved.copies) copies.#keep(copy, new OwnedFd(fd))
    return copies
  }

  private constructor(
    socket: OwnedFd,
    file: OwnedFd,
    poller: Poller,
    logger: Logger,
    ended: () => void,
    { store, worker }: KeptAs,
  ) {
    this.#file = file
    this.#stored = store.of(worker, file)
    this.#channel = new Channel<FromCopier, ToCopier>(socket, poller, {
      message: (message, fds) => this.#received(message, fds),
      ended: (error) => {
        this.#ended = true
        this.#complete = error === undefined
        if (error !== undefined) {
          logger.error(
            { error: error.message },
            'lost the copies of waiting connections: they would not survive the death of their worker',
          )
          this.#stored.close()
          closeCopies(this.#takeAll().map(([, copy]) => copy))
        }
        ended()
      },
    })
  }

  /** False once all that the worker has sent is read, or the stream has failed. */
  get open(): boolean {
    return !this.#ended
  }

  /** No message is partly sent or received, and the worker has not just ended: another program would know nothing of what it had. */
  get quiet(): boolean {
    return this.#ended ? !this.#complete : this.#channel.quiet
  }

  get size(): number {
    return this.#size
  }

  /** Where the worker writes what it counts. The file stays this object's. */
  get accounts(): { readonly layout: readonly Account[]; readonly file: number } {
    return { layout: this.#layout, file: this.#file.fd }
  }

  /** How many pings the worker has answered in the memory file. */
  get pulse(): number {
    return readPulse(this.#file.fd)
  }

  /** The counts that the worker has written so far. */
  get written(): WorkerAccounts {
    return readAccounts(this.#file.fd, this.#layout)
  }

  /** Undefined when there is nothing left to adopt. Its descriptors must stay open. */
  stateWith(copies: boolean): WorkerCopiesState | undefined {
    if (!this.open) return undefined
    const layout = this.#layout
    const state = { channel: this.#channel.fd, file: this.#file.fd, layout }
    // In both places: an older program reads the second.
    return copies ? { ...state, kept: { layout, copies: this.#saved() } } : state
  }

  #saved() {
    return [...this.#copies.entries()].flatMap(([slot, kept]) => {
      const survivor = kept?.survivor(slot)
      return survivor === undefined ? [] : [{ ...survivor, fd: survivor.fd.fd }]
    })
  }

  /**
   * The worker has ended: what waited in it, in order, and what it had counted. If the stream has failed before, nothing survives. Call once; closes
   * everything else.
   */
  take(): Remains {
    const copies = this.#takeAll()
    this.#channel.close()
    const release = () => {
      // First: a stored copy must not count once its connection may be with another worker.
      clearMarks(this.#file.fd)
      this.#stored.close()
      this.#file.close()
    }
    const marks = readMarks(this.#file.fd)
    const counts = ([slot, { number }]: readonly [number, KeptCopy]) =>
      this.#complete && marks[slot] === number
    const survivors = copies
      .filter(counts)
      .map(([slot, copy]) => copy.survivor(slot))
      .toSorted((a, b) => a.copy.order - b.copy.order)
    this.#close(copies.filter((each) => !counts(each)))
    return { survivors, accounts: this.written, release }
  }

  #received(message: FromCopier, fds: readonly OwnedFd[]): void {
    if (message.type === 'accounts') this.#know(message.accounts)
    else if (message.type === 'wait')
      for (const [index, copy] of message.copies.entries()) this.#keep(copy, fds[index] as OwnedFd)
    else this.#over(message.copies)
  }

  #know(layout: readonly Account[]): void {
    this.#layout = layout
    for (const account of layout)
      if (account.kind === 'listener' && !account.unix) this.#tcp.add(account.name)
  }

  #keep(copy: Copy, fd: OwnedFd): void {
    const origin = this.#originOf(copy.client)
    const before = this.#copies[copy.slot]
    if (before === undefined) this.#size += 1
    else this.#close([[copy.slot, before]])
    this.#copies[copy.slot] = new KeptCopy(copy, fd, origin)
    this.#stored.add(copy, fd, origin.reachable)
  }

  /** One object for all that have it in common. */
  #originOf({ service, protocol, listener }: HeldClient): Origin {
    const reachable = !this.#tcp.has(listener)
    const isSame = (each: Origin) =>
      each.service === service &&
      each.listener === listener &&
      each.protocol === protocol &&
      each.reachable === reachable
    let origin = this.#origins.find(isSame)
    if (origin === undefined) this.#origins.push((origin = { service, protocol, listener, reachable }))
    return origin
  }

  /** With their slots; none is left. */
  #takeAll(): (readonly [number, KeptCopy])[] {
    const all = [...this.#copies.entries()].filter(
      (each): each is [number, KeptCopy] => each[1] !== undefined,
    )
    this.#copies = []
    this.#size = 0
    return all
  }

  #over(copies: readonly number[]): void {
    const closing: (readonly [number, KeptCopy])[] = []
    for (let at = 0; at < copies.length; at += 2) {
      const slot = copies[at] as number
      const found = this.#copies[slot]
      if (found === undefined || found.number !== copies[at + 1]) continue
      this.#copies[slot] = undefined
      this.#size -= 1
      closing.push([slot, found])
    }
    this.#close(closing)
  }

  /** With their slots. */
  #close(copies: readonly (readonly [number, KeptCopy])[]): void {
    for (const [slot, { number }] of copies) this.#stored.remove({ slot, number })
    closeCopies(copies.map(([, copy]) => copy))
  }
}

/** Never blocks, whatever a backend has done to the socket; bytes in its queue are its next holder's. */
export function closeCopies(copies: readonly Pick<Survivor, 'fd' | 'reachable'>[]): void {
  try {
    for (const { fd, reachable } of copies) if (reachable) closeReachable(fd, false)
    closeAll(copies.map(({ fd }) => fd))
  } catch (error) {
    if (!(error instanceof NativeError)) throw error
  }
}

/** How many copies of one worker's connections this process has room for. */
export function copyLimit(): number {
  const line = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return line === null ? 0 : Math.floor(Number(line[1]) * SHARE)
}
