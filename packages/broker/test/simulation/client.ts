import { OwnedFd } from '@baton/native-sendmsg'
import { File, type Process } from './kernel.ts'

/**
 * What a client has done so far, as its socket shows it. `asked`: sent its request and half-closed; `half-closed`: without
 * one.
 */
export type ClientState = 'quiet' | 'sent' | 'asked' | 'half-closed' | 'gone'

/** A client's socket: who holds it, and who has touched it. */
export class Client extends File {
  readonly order: number
  state: ClientState = 'quiet'
  /** Who has read from it or written to it. For good: nobody gives a client back that was touched. */
  owner: Process | undefined
  /** Its turn has come: to a lane, or to a relay. */
  offered = false
  /** Whose ACK for it the kernel has had: it may touch the client, and if it dies the client dies with it. */
  readonly ackedBy = new Set<Process>()
  /** Given up by the broker, with nobody to say whether it was touched. */
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

  /** I3: only with nobody else who holds it, or can get it, has the broker got it back. */
  assertUnshared(by: Process, doing: string): void {
    const { kernel } = by
    if (this.owner !== undefined && this.owner !== by)
      kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which ${this.owner.name} has touched`)
    if (this.inFlight > 0) kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which is on a lane still`)
    for (const holder of this.holders.keys()) {
      // The dead do nothing any more with what the kernel has yet to close.
      if (holder !== by && holder.alive)
        kernel.violate(`I3: ${by.name} ${doing} ${this.label}, which ${holder.name} holds`)
    }
  }

  /** I5: the client sees a FIN. A death, or giving up over the bound, explains it; nothing else does. */
  override released(by: Process | undefined): void {
    const broker = this.#acceptedBy
    if (this.owner !== undefined || this.state === 'gone' || this.state === 'half-closed') return
    if (this.relinquished || !broker.alive || [...this.ackedBy].some(({ alive }) => !alive)) return
    broker.kernel.violate(
      `I5: ${this.label} was closed by ${by?.name ?? 'the lane'} and nobody had answered it`,
    )
  }
}

/** The descriptor of a simulated client, in the place of one of this process's own. */
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
