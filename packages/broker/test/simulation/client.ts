import { OwnedFd } from '@baton/native-sendmsg'
import { File, type Process } from './kernel.ts'

/**
 * The client's actions so far, as its socket shows them. `asked`: sent its request and half-closed; `half-closed`: without
 * a request.
 */
export type ClientState = 'quiet' | 'sent' | 'asked' | 'half-closed' | 'gone'

/** A client's socket: its holders, and the process that has touched it. */
export class Client extends File {
  readonly order: number
  state: ClientState = 'quiet'
  /** The process that has read from it or written to it. Permanent: a touched client cannot be returned. */
  owner: Process | undefined
  /** It has been offered, to a lane or to a relay. */
  offered = false
  /** Processes whose ACK for it has reached the kernel: they may touch the client, and if they die the client dies too. */
  readonly ackedBy = new Set<Process>()
  /** Given up by the broker, without knowing whether it was touched. */
  relinquished = false
  readonly #acceptedBy: Process

  constructor(order: number, acceptedBy: Process) {
    super(`client ${order}`)
    this.order = order
    this.#acceptedBy = acceptedBy
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

  /** I3: the broker may take the client back only if no other process holds it or can get it. */
  assertUnshared(by: Process, doing: string): void {
    const { kernel } = by
    if (this.owner !== undefined && this.owner !== by)
      kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which ${this.owner.name} has touched`)
    if (this.inFlight > 0) kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which is on a lane still`)
    for (const holder of this.holders.keys()) {
      // A dead process can do nothing with descriptors that the kernel has not closed yet.
      if (holder !== by && holder.alive)
        kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which ${holder.name} holds`)
    }
  }

  /** I5: the client sees a FIN. Only a death, or giving up over the bound, explains it. */
  override released(by: Process | undefined): void {
    const broker = this.#acceptedBy
    if (this.owner !== undefined || this.state === 'gone' || this.state === 'half-closed') return
    if (this.relinquished || !broker.alive || [...this.ackedBy].some(({ alive }) => !alive)) return
    broker.kernel.violate(`I5: ${this.label} was closed unanswered by ${by?.name ?? 'the lane'}`)
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
