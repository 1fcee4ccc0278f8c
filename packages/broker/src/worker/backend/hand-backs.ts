import { timingSafeEqual } from 'node:crypto'
import { OwnedFd } from '@baton/native-sendmsg'
import {
  type ControlConnection,
  type Frame,
  type GivenBack,
  type GivenBackReason,
  type HandBack,
  NO_KEEP_ALIVE_LIMIT,
  ProtocolError,
} from '@baton/backend-sdk/protocol'
import type { ParkedClient } from '../connection/connection.ts'
import type { Os } from '../os.ts'
import type { HandoffLane, LaneArrival } from './lane.ts'
import { HandBackTally } from './hand-back-tally.ts'
import type { BackendIdentity, LinkHost } from './link-host.ts'

/** Result of one HANDBACK. */
interface Received {
  /** How many the backend keeps. */
  readonly given: number
  /** The backend broke the rules: nothing of this HANDBACK was taken. */
  readonly fault: ProtocolError | undefined
}

interface Taken {
  readonly sequence: number
  readonly client: ParkedClient
}

/**
 * Connections that one backend hands back. A descriptor comes on the lane with a token, then HANDBACK names the same token on control.
 *
 *     received -- TAKEN in the kernel --> the host's -- SETTLED
 *              -- closed here --> GIVEN_BACK: the backend goes on with it
 *              -- TAKEN never reached the kernel --> closed here, never offered on (M3, M4)
 *              -- against the rules --> closed here, and the backend is cut off
 *
 * Owner of each descriptor from the lane until then.
 */
export class HandBacks {
  readonly tally = new HandBackTally()
  readonly #giver: BackendIdentity
  readonly #control: ControlConnection
  readonly #lane: HandoffLane
  /** Undefined: the backend may hand nothing back. */
  readonly #window: number | undefined
  readonly #host: LinkHost
  readonly #os: Os
  #lastSequence = 0
  #count = 0
  /** Sockets that may be of a listener as it was before a reload. */
  #strangers = 0
  /** Hand-backs with an answer that is written, and not known to be in the kernel. */
  #untold = 0

  constructor(
    giver: BackendIdentity,
    transport: { control: ControlConnection; lane: HandoffLane },
    window: number | undefined,
    host: LinkHost,
    os: Os,
  ) {
    this.#giver = giver
    this.#control = transport.control
    this.#lane = transport.lane
    this.#window = window
    this.#host = host
    this.#os = os
  }

  /**
   * @param entries at least one
   * @param adopted connections that the backend has adopted so far: it cannot hand more back
   * @param elsewhere how many of them came from another worker, whose listeners may have had other addresses
   */
  received(entries: readonly HandBack[], adopted: number, elsewhere = 0): Received {
    const window = this.#window
    if (window === undefined) return this.#refuse([], entries, 'HANDBACK was not granted')
    // It does not read its answers, which must not fill this process's memory.
    if (this.#untold > window) return this.#refuse([], entries, 'more is handed back than the window allows')
    const arrivals = this.#lane.takeHandBacks(entries.length)
    this.#count += entries.length
    if (this.#count > adopted)
      return this.#refuse(arrivals, entries, 'more was handed back than had been adopted')
    const taken: Taken[] = []
    const given: GivenBack[] = []
    const closing: OwnedFd[] = []
    for (const [index, entry] of entries.entries()) {
      const arrival = arrivals[index]
      const problem = this.#problem(entry, arrival)
      if (problem !== undefined) return this.#refuse(arrivals, entries, problem)
      const [fd] = (arrival as LaneArrival).fds
      // The process may open no more: the kernel has dropped the copy.
      if (fd === undefined) {
        given.push({ sequence: entry.sequence, reason: 'TooMany' })
        continue
      }
      const origin = this.#host.listenerOf(fd, entry.listener)
      if (origin === 'foreign' && ++this.#strangers > elsewhere)
        return this.#refuse(arrivals, entries, 'a socket was handed back that is none of the service')
      const reason = this.#reason(entry, fd, taken.length + this.#untold, window)
      if (typeof origin !== 'string' && reason === undefined) {
        taken.push({ sequence: entry.sequence, client: this.#client(fd, entry, origin) })
      } else {
        closing.push(new OwnedFd(fd))
        given.push({ sequence: entry.sequence, reason: reason ?? 'NoTaker' })
      }
    }
    this.#giveBack(given, closing)
    if (taken.length > 0) this.#take(taken)
    return { given: given.length, fault: undefined }
  }

  #problem(entry: HandBack, arrival: LaneArrival | undefined): string | undefined {
    if (entry.sequence <= this.#lastSequence) return 'sequences of hand-backs do not increase'
    this.#lastSequence = entry.sequence
    if (arrival === undefined) return 'HANDBACK came without its descriptor'
    const { bytes, length, fds, controlTruncated } = arrival
    // Rule: HANDBACK_TOKEN_MATCH (docs/internals/model)
    if (length !== entry.token.length || !timingSafeEqual(bytes, entry.token))
      return 'the token of HANDBACK is not that of its descriptor'
    if (fds.length !== 1 && !(fds.length === 0 && controlTruncated))
      return `${fds.length} descriptors came with one token`
    return undefined
  }

  #reason({ kind }: HandBack, fd: number, before: number, window: number): GivenBackReason | undefined {
    if (kind !== 'idle') return 'NoTaker'
    // Idle connections may not use up what is kept for backends and the admin server.
    if (before >= window || this.#os.isOfReserve(fd)) return 'TooMany'
    return this.#host.handBackRefusal()
  }

  /**
   * The ULID is taken on trust. It names the connection in logs and in the recorder, and decides nothing. Comparing it with those that are
   * parked or in flight would cost a table of them, and a backend that lies could make up any other.
   */
  #client(fd: number, { connection, keepAlive }: HandBack, listener: ParkedClient['listener']): ParkedClient {
    return {
      fd: new OwnedFd(fd),
      listener,
      id: connection,
      idleUntil: keepAlive === NO_KEEP_ALIVE_LIMIT ? Number.POSITIVE_INFINITY : this.#os.now() + keepAlive,
      record: undefined,
    }
  }

  /** Closed first: GIVEN_BACK says that the giver's duplicate is the only one. */
  #giveBack(given: readonly GivenBack[], closing: readonly OwnedFd[]): void {
    if (given.length === 0) return
    // Rule: GIVE_BACK_AFTER_CLOSE (docs/internals/model)
    this.#close(closing)
    this.tally.gaveBack(given)
    for (const [reason, times] of countsOf(given)) this.#host.notTaken('idle', reason, times, this.#giver)
    this.#tell({ type: 'given_back', entries: [...given] }, given.length)
  }

  #take(taken: readonly Taken[]): void {
    const sequences = taken.map(({ sequence }) => sequence)
    this.#tell({ type: 'taken', sequences }, taken.length, (error) => {
      // Rule: TAKEN_BEFORE_OFFER (docs/internals/model)
      if (error === undefined) return this.#settle(taken)
      // The giver finds no TAKEN at the end of control, and goes on.
      this.#close(taken.map(({ client: { fd } }) => fd))
    })
  }

  #settle(taken: readonly Taken[]): void {
    this.tally.taken(taken.length)
    this.#host.parked(
      taken.map(({ client }) => client),
      this.#giver,
    )
    const entries = taken.map(({ sequence }) => ({ sequence, outcome: 'parked' as const }))
    this.#tell({ type: 'settled', entries }, taken.length)
  }

  /** Writes an answer to `count` hand-backs. `done`: it is in the kernel, or never will be. */
  #tell(frame: Frame, count: number, done: (error: Error | undefined) => void = () => {}): void {
    this.#untold += count
    const settled = (error: Error | undefined) => {
      this.#untold -= count
      done(error)
    }
    if (this.#control.write(frame, settled)) settled(undefined)
  }

  /** Closes copies that the giver may have kept. It may have made their close(2) block, whatever O_NONBLOCK says (SO_LINGER). */
  #close(fds: readonly OwnedFd[]): void {
    for (const fd of fds) {
      const local = this.#os.local(fd.fd)
      if (local === undefined || local.family === 'unix') this.#os.discard([fd.release()])
      else this.#os.closeClients([{ fd, peer: local }])
    }
  }

  #refuse(arrivals: readonly LaneArrival[], entries: readonly HandBack[], message: string): Received {
    this.#os.discard(arrivals.flatMap(({ fds }) => fds))
    this.#host.notTaken((entries[0] as HandBack).kind, 'ProtocolViolation', entries.length, this.#giver)
    return { given: 0, fault: new ProtocolError('BATON_ERR_FRAME_MALFORMED', message) }
  }
}

function countsOf(given: readonly GivenBack[]): Map<GivenBackReason, number> {
  const counts = new Map<GivenBackReason, number>()
  for (const { reason } of given) counts.set(reason, (counts.get(reason) ?? 0) + 1)
  return counts
}
