import { setTimeout as sleep } from 'node:timers/promises'
import { createMemoryFile, type OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import { Channel } from '../../ipc/channel.ts'
import {
  type Account,
  clearMarks,
  type Copy,
  type FromCopier,
  type ToCopier,
  type WrittenAccounts,
  writeMarks,
  writeNumbers,
  writePulse,
} from '../../ipc/copies.ts'
import { Accounts, type AccountSource, type Moves } from './accounts.ts'
import { heldClient, monotonic, type Waiting } from './held-client.ts'
import type { Keeper, Kept } from './keeper.ts'

/** Minimum time of waiting, in ms: a connection that is offered sooner is never copied. */
const DELAY_MS = 10

/** Maximum connections per message. */
const BATCH = 64

/** Maximum bytes of state in one message; a connection with more is sent alone. */
const BATCH_STATE_BYTES = 1024 * 1024

/** Wait, in ms, before the next attempt when the kernel or the master takes no more. */
const RETRY_MS = 50

/** Timeout for the master to take what is left to the next start, and how often to check, in ms. */
const LEAVE_TIMEOUT_MS = 5000
const LEAVE_INTERVAL_MS = 2

const FIRST_MARKS = 1024

/**
 * Keeps copies of waiting connections at the master, in case this process is killed (`ipc/copies.ts`):
 *
 *     pending -- DELAY_MS --> copied -- over: the mark is cleared, then the master closes its copy
 *             -- over, without a trace
 *
 * Best effort: what the master has no room for, or what cannot be sent at once, has no copy. While there is no master, nothing is copied, but marks are
 * cleared as before: the service manager may have copies as well; and counts are written as before, for the next master. Owns its end of the stream, and the memory file.
 */
export class Copier {
  readonly #poller: Poller
  #file: OwnedFd
  #pulse = 0
  #limit: number
  #channel: Channel<ToCopier, FromCopier>
  readonly #accounts: Accounts
  /** By slot: what waits, and its service. */
  readonly #waiting: (Waiting | undefined)[] = []
  readonly #services: string[] = []
  /** Slots without a copy yet, in order of arrival here, with the time by performance.now(). */
  readonly #pending = new Map<number, number>()
  #copied = 0
  readonly #free: number[] = []
  #slots = 0
  #numbers = 0
  /** By slot: the number of its copy; 0 while there is none. */
  #marks = new Uint32Array(FIRST_MARKS)
  #over: number[] = []
  #timer: NodeJS.Timeout | undefined
  /** The master is told at the end of this turn. */
  #isTelling = false
  /** Changed accounts are written at the end of this callback. */
  #isWriting = false
  /** Copies are made at once from now on. */
  #isLeaving = false

  /**
   * For a master that had no descriptors for the stream and the file: nothing is copied, and counts are written to a file that no other process has, until `connect`.
   *
   * @throws {NativeError}
   */
  static alone(poller: Poller): Copier {
    const file = createMemoryFile('baton-worker-copies')
    try {
      const [socket, other] = socketpair('stream')
      other.close()
      return new Copier([socket, file], poller, 0)
    } catch (error) {
      file.close()
      throw error
    }
  }

  /** Owns both descriptors. @param limit how many copies the master has room for */
  constructor([socket, file]: readonly [OwnedFd, OwnedFd], poller: Poller, limit: number) {
    this.#poller = poller
    this.#file = file
    this.#limit = limit
    this.#channel = this.#connect(socket)
    this.#accounts = new Accounts((numbers) => writeNumbers(this.#file.fd, numbers))
  }

  /** Another master has taken over: all that waits is copied again, and earlier copies do not count. Owns both descriptors. */
  connect([socket, file]: readonly [OwnedFd, OwnedFd], limit: number): void {
    this.close()
    clearMarks(this.#file.fd)
    this.#file.close()
    this.#renew()
    this.#file = file
    this.#limit = limit
    this.#channel = this.#connect(socket)
    // At once: this process may be killed before its next round.
    this.#accounts.begin()
    this.#accounts.write()
    this.#tellAccounts()
    if (this.#pending.size > 0) this.#arm(DELAY_MS)
  }

  #connect(socket: OwnedFd): Channel<ToCopier, FromCopier> {
    return new Channel<ToCopier, FromCopier>(socket, this.#poller, {
      message: () => this.#again(),
      ended: () => this.#end(),
    })
  }

  /** For the connections of one service. */
  of(service: string): Keeper {
    return {
      keep: (connection) => this.#keep(service, connection),
      over: (kept) => this.#settle(kept),
    }
  }

  /** Counts something more from now on. @param moves of all but listeners */
  account(account: Account, source: AccountSource, moves?: () => Moves): void {
    if (this.#accounts.add(account, source, moves)) this.#tellAccounts()
  }

  /** As it is in the memory file now. */
  get written(): WrittenAccounts {
    this.#accounts.write()
    return this.#accounts.written
  }

  /** To be called after each round of the poller, and before this process ends. */
  /** A `ping` of the master's is answered. */
  writePulse(): void {
    writePulse(this.#file.fd, (this.#pulse += 1))
  }

  writeAccounts(): void {
    this.#accounts.write()
  }

  /** The counts have changed, maybe outside of a round of the poller: they are written when this callback of the event loop is over. */
  accountsChanged(): void {
    if (this.#isWriting) return
    this.#isWriting = true
    queueMicrotask(() => {
      this.#isWriting = false
      this.#accounts.write()
    })
  }

  /**
   * Leaves connections that wait to the next start of the broker: from now on only the copies count. Keeps their descriptors.
   *
   * @returns false: there is no master to take them
   */
  leave(service: string, connections: readonly Waiting[]): boolean {
    if (!this.#channel.open) return false
    this.#isLeaving = true
    for (const connection of connections) this.#keep(service, connection)
    this.#tell()
    this.#copy()
    return true
  }

  /** Resolves when the kernel has all that was left, as far as the master has room. */
  async left(): Promise<void> {
    const end = performance.now() + LEAVE_TIMEOUT_MS
    const isCopying = () =>
      this.#channel.open && this.#pending.size > 0 && this.#copied < this.#limit && performance.now() < end
    while (isCopying()) await sleep(LEAVE_INTERVAL_MS)
    await this.#channel.sent()
  }

  /** There is no master any more. What was not sent is dropped. */
  close(): void {
    this.#channel.close()
    this.#end()
  }

  #keep(service: string, connection: Waiting): Kept | undefined {
    const slot = this.#free.pop() ?? this.#slots++
    this.#grow()
    this.#waiting[slot] = connection
    this.#services[slot] = service
    this.#pending.set(slot, performance.now())
    if (this.#channel.open) this.#arm(DELAY_MS)
    return slot
  }

  #settle(all: readonly (Kept | undefined)[]): void {
    let [from, to] = [this.#slots, 0]
    for (const slot of all) {
      if (slot === undefined || this.#waiting[slot] === undefined) continue
      this.#waiting[slot] = undefined
      this.#free.push(slot)
      if (this.#pending.delete(slot)) continue
      const number = this.#marks[slot] as number
      this.#copied -= 1
      this.#marks[slot] = 0
      this.#over.push(slot, number)
      from = Math.min(from, slot)
      to = Math.max(to, slot + 1)
    }
    if (from >= to) return
    writeMarks(this.#file.fd, this.#marks, from, to)
    if (this.#isTelling || !this.#channel.open) return
    this.#isTelling = true
    setImmediate(() => this.#tell())
  }

  /** A client sees the end of its connection only when the master has closed its copy as well. */
  #tell(): void {
    this.#isTelling = false
    if (this.#over.length === 0 || !this.#channel.open) return
    if (!this.#channel.sendNow({ type: 'over', copies: this.#over }, [])) return this.#arm(RETRY_MS)
    this.#over = []
  }

  #arm(delay: number): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#tell()
      this.#copy()
    }, delay)
  }

  /** Copies connections that have waited long enough. */
  #copy(): void {
    const latest = this.#isLeaving ? Number.POSITIVE_INFINITY : performance.now() - DELAY_MS
    // Counted first: a copy of a connection that was never accepted would be one too many.
    this.#accounts.write()
    while (this.#channel.open && this.#pending.size > 0 && this.#copied < this.#limit) {
      const batch = this.#due(latest)
      if (batch.length === 0) break
      if (!this.#send(batch)) return this.#arm(RETRY_MS)
    }
    if (this.#pending.size > 0 && this.#channel.open)
      this.#arm(this.#copied < this.#limit ? DELAY_MS : RETRY_MS)
  }

  #due(latest: number): number[] {
    const batch: number[] = []
    let bytes = 0
    const max = Math.min(BATCH, this.#limit - this.#copied)
    for (const [slot, since] of this.#pending) {
      if (batch.length >= max || since > latest) break
      const connection = this.#waiting[slot] as Waiting
      const state = 'resume' in connection ? connection.resume?.block : undefined
      bytes += state === undefined ? 0 : state.state.length + state.prefix.length + state.answerHead.length
      if (batch.length > 0 && bytes > BATCH_STATE_BYTES) break
      batch.push(slot)
    }
    return batch
  }

  #send(batch: readonly number[]): boolean {
    const copies = batch.map((slot): Copy => {
      const connection = this.#waiting[slot] as Waiting
      const isIdle = 'idleUntil' in connection
      return {
        slot,
        number: (this.#numbers = (this.#numbers % 0xffffffff) + 1),
        order: isIdle ? 0 : connection.order,
        ...(isIdle && { idleUntil: absolute(connection.idleUntil) }),
        client: heldClient(this.#services[slot] as string, connection),
      }
    })
    const sent = this.#channel.sendNow(
      { type: 'wait', copies },
      batch.map((slot) => (this.#waiting[slot] as Waiting).fd.fd),
    )
    if (!sent) return false
    let [from, to] = [this.#slots, 0]
    for (const { slot, number } of copies) {
      const connection = this.#waiting[slot] as Waiting
      if ('compact' in connection) connection.compact?.()
      this.#marks[slot] = number
      this.#copied += 1
      this.#pending.delete(slot)
      from = Math.min(from, slot)
      to = Math.max(to, slot + 1)
    }
    writeMarks(this.#file.fd, this.#marks, from, to)
    return true
  }

  #grow(): void {
    if (this.#slots <= this.#marks.length) return
    const marks = new Uint32Array(2 ** Math.ceil(Math.log2(this.#slots)))
    marks.set(this.#marks)
    this.#marks = marks
  }

  /** The master's program was replaced: it has none of the copies, but those that the one before has not read. */
  #again(): void {
    // Not push(): there may be more than a call takes arguments.
    this.#over = [...this.#over, ...this.#renew()]
    writeMarks(this.#file.fd, this.#marks, 0, this.#slots)
    this.#tell()
    this.#tellAccounts()
    if (this.#pending.size > 0) this.#arm(DELAY_MS)
  }

  /** All that waits is to be copied again. @returns slot and number of each copy that does not count any more */
  #renew(): number[] {
    const number = (slot: number) => this.#marks[slot] as number
    const copied = [...this.#waiting.keys()].filter((slot) => number(slot) !== 0)
    copied.sort((a, b) => number(a) - number(b))
    const over = copied.flatMap((slot) => [slot, number(slot)])
    const others = [...this.#pending]
    this.#pending.clear()
    // They have waited long enough, and longer than the others.
    for (const slot of copied) this.#pending.set(slot, 0)
    for (const [slot, since] of others) this.#pending.set(slot, since)
    this.#copied = 0
    this.#marks.fill(0)
    return over
  }

  #tellAccounts(): void {
    if (this.#channel.open) this.#channel.send({ type: 'accounts', accounts: this.#accounts.layout })
  }

  #end(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#over = []
  }
}

/** A time by performance.now(), by CLOCK_MONOTONIC. */
function absolute(time: number): number | null {
  return Number.isFinite(time) ? time - performance.now() + monotonic() : null
}
