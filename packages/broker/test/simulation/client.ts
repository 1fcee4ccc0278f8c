import { OwnedFd } from '@baton/native-sendmsg'
import { File, type Process } from './kernel.ts'

/**
 * A client's socket: what the client has done, its holders, and the process that may read and write it. The bytes that the client sends
 * are numbered: each must be consumed once, in order, by whichever process owns the connection then.
 */
export class Client extends File {
  readonly order: number
  /** Place in the order of arrival: a connection that was handed back arrives again with its next request. */
  arrival: number
  /** Bytes that the client has sent, those that were read from the kernel's buffer, and those that an app has consumed. */
  sent = 0
  read = 0
  consumed = 0
  /** It has shut down its sending side. */
  finished = false
  gone = false
  /** The process that has read from it or written to it, until TAKEN is in the kernel: from then on it is the broker's again. */
  owner: Process | undefined
  /** It has been offered, to a lane or to a relay. */
  offered = false
  /** Processes whose ACK for it has reached the kernel: they may touch the client, and if they die the client dies too. */
  readonly ackedBy = new Set<Process>()
  /** Processes that have handed it back and keep a duplicate until they have read TAKEN. They do nothing with it. */
  readonly left = new Set<Process>()
  /** Brokers whose offer was ACKed: they may not have read it yet, and then do nothing but close their copy. */
  readonly spent = new Set<Process>()
  /** Given up by the broker, without knowing whether it was touched. */
  relinquished = false
  /** Its owner has closed it. */
  ended = false
  /** Messages on lanes that no HANDBACK will name: their receiver closes them. */
  strays = 0
  /** A backend has made the shared socket blocking. */
  blocking = false
  /** The broker that has it, or had it last. */
  keeper: Process
  /** A broker watches it for its next request. */
  parked = false
  /** Nothing was there when the broker looked last: a request may come while it closes the connection, as with every server. */
  seenIdle = false
  /** It was handed back: it is between two requests, and no answer is due while nothing of the next one is there. */
  returned = false

  constructor(order: number, acceptedBy: Process, arrival: number) {
    super(`client ${order}`)
    this.order = order
    this.keeper = acceptedBy
    this.arrival = arrival
  }

  get unread(): number {
    return this.sent - this.read
  }

  /** I1. */
  touch(by: Process): void {
    const { kernel } = by
    kernel.trace(by.name, `touches ${this.label}`)
    if (!this.holders.has(by)) kernel.violate(`${by.name} touches ${this.label}, which it does not hold`)
    if (this.owner !== undefined && this.owner !== by)
      kernel.violate(`I1: ${this.label} was touched by ${this.owner.name} and by ${by.name}`)
    this.owner = by
  }

  /** read(2) of one byte by its owner. @returns the byte's number */
  readOne(by: Process): number {
    this.touch(by)
    this.read += 1
    return this.read
  }

  /** M5. */
  consume(by: Process, byte: number): void {
    if (byte !== this.consumed + 1)
      by.kernel.violate(
        `M5: byte ${byte} of ${this.label} is consumed by ${by.name} after byte ${this.consumed}`,
      )
    this.consumed = byte
  }

  /** M1, M4: it is this process's again only if the broker never had it. */
  comeBack(by: Process): void {
    this.left.delete(by)
    if (this.owner !== by)
      by.kernel.violate(`M4: ${by.name} goes on with ${this.label}, which the broker has taken`)
    this.touch(by)
  }

  /** M1: TAKEN is in the kernel. */
  taken(by: Process): void {
    by.kernel.trace(by.name, `owns ${this.label}: TAKEN is in the kernel`)
    if (this.owner === undefined || !this.left.has(this.owner))
      by.kernel.violate(`M1: ${by.name} takes ${this.label}, which was not handed back`)
    this.owner = undefined
    this.ended = false
    this.returned = true
    this.offered = false
    this.ackedBy.clear()
    this.spent.delete(by)
    this.keeper = by
  }

  /** I3: the broker may take the client back only if no other process holds it or can get it. */
  assertUnshared(by: Process, doing: string): void {
    const { kernel } = by
    if (this.owner !== undefined && this.owner !== by)
      kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which ${this.owner.name} has touched`)
    if (this.inFlight > this.strays)
      kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which is on a lane still`)
    for (const holder of this.holders.keys()) {
      // A dead process can do nothing with descriptors that the kernel has not closed yet.
      if (holder !== by && holder.alive && !this.left.has(holder) && !this.spent.has(holder))
        kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which ${holder.name} holds`)
    }
  }

  /** I5: the client sees a FIN. Only its owner, a death, or giving up over the bound, explains it. */
  override released(by: Process | undefined): void {
    if (this.ended || this.gone || (this.finished && this.unread === 0)) return
    const { keeper, owner } = this
    if (owner !== undefined) {
      if (!owner.alive) return
      keeper.kernel.violate(
        `I5: ${this.label} is closed by ${by?.name ?? 'the lane'}, and ${owner.name} has not ended it`,
      )
    }
    if (this.relinquished || !keeper.alive || [...this.ackedBy].some(({ alive }) => !alive)) return
    keeper.kernel.violate(`I5: ${this.label} was closed unanswered by ${by?.name ?? 'the lane'}`)
  }
}

/** The descriptor of a simulated client, in place of a real one. */
export class SimulatedFd extends OwnedFd {
  readonly #process: Process

  constructor(process: Process, file: File) {
    super(process.open(file))
    this.#process = process
  }

  override close(): void {
    if (!this.closed) this.#process.close(this.release())
  }
}

/** A giver's duplicate of a connection that it hands back. */
export class Duplicate extends SimulatedFd {
  readonly #client: Client
  readonly #by: Process
  readonly #isClosing: () => boolean

  /** @param isClosing the giver ends its connections */
  constructor(process: Process, client: Client, isClosing: () => boolean) {
    super(process, client)
    this.#isClosing = isClosing
    this.#client = client
    this.#by = process
  }

  override close(): void {
    const client = this.#client
    // Without an answer of the broker's, closing ends the connection; before TAKEN it is still this process's.
    const unanswered = client.left.has(this.#by) && client.owner === this.#by
    if (unanswered && !this.closed && this.#isClosing()) client.ended = true
    super.close()
    // The broker may still take it: then it lives on there.
    if (!unanswered) client.left.delete(this.#by)
  }
}
