import { timingSafeEqual } from 'node:crypto'
import { OwnedFd } from '@baton/native-sendmsg'
import {
  type ControlConnection,
  type GivenBack,
  type GivenBackReason,
  type HandBack,
  NO_KEEP_ALIVE_LIMIT,
  ProtocolError,
} from '@baton/backend-sdk/protocol'
import type { ParkedClient } from '../connection/connection.ts'
import type { Os } from '../os.ts'
import type { HandoffLane, LaneArrival } from './lane.ts'
import type { LinkHost } from './link-host.ts'

/** What one HANDBACK came to. */
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
 * What one backend hands back. A descriptor comes on the lane with a token, then HANDBACK names the same token on control.
 *
 *     received -- TAKEN in the kernel --> the host's -- SETTLED
 *              -- closed here --> GIVEN_BACK: the backend goes on with it
 *              -- TAKEN never reached the kernel --> closed here, never offered on (M3, M4)
 *              -- against the rules --> closed here, and the backend is cut off
 *
 * Owner of each descriptor from the lane until then.
 */
export class HandBacks {
  readonly #control: ControlConnection
  readonly #lane: HandoffLane
  /** Undefined: the backend may hand nothing back. */
  readonly #window: number | undefined
  readonly #host: LinkHost
  readonly #os: Os
  #lastSequence = 0
  #count = 0
  /** TAKEN is written, and not known to be in the kernel. */
  #untold = 0

  constructor(
    transport: { control: ControlConnection; lane: HandoffLane },
    window: number | undefined,
    host: LinkHost,
    os: Os,
  ) {
    this.#control = transport.control
    this.#lane = transport.lane
    this.#window = window
    this.#host = host
    this.#os = os
  }

  /**
   * @param entries at least one
   * @param adopted connections that the backend has adopted so far: it cannot hand more back
   */
  received(entries: readonly HandBack[], adopted: number): Received {
    const window = this.#window
    if (window === undefined) return this.#refuse([], entries, 'HANDBACK was not granted')
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
      if (origin === 'foreign')
        return this.#refuse(arrivals, entries, 'a socket was handed back that is none of the service')
      const reason = this.#reason(entry, taken.length + this.#untold, window)
      if (origin !== 'gone' && reason === undefined) {
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

  #reason({ kind }: HandBack, before: number, window: number): GivenBackReason | undefined {
    if (kind !== 'idle') return 'NoTaker'
    return before >= window ? 'TooMany' : this.#host.handBackRefusal()
  }

  #client(fd: number, { connection, keepAlive }: HandBack, listener: ParkedClient['listener']): ParkedClient {
    return {
      fd: new OwnedFd(fd),
      listener,
      id: connection,
      idleUntil: keepAlive === NO_KEEP_ALIVE_LIMIT ? Number.POSITIVE_INFINITY : this.#os.now() + keepAlive,
    }
  }

  /** Closed first: GIVEN_BACK says that the giver's duplicate is the only one. */
  #giveBack(given: readonly GivenBack[], closing: readonly OwnedFd[]): void {
    if (given.length === 0) return
    // Rule: GIVE_BACK_AFTER_CLOSE (docs/internals/model)
    this.#os.closeClients(closing.map((fd) => ({ fd, peer: { family: 'unix', address: '', port: 0 } })))
    this.#host.notTaken('idle', 'given_back', given.length)
    this.#control.write({ type: 'given_back', entries: [...given] })
  }

  #take(taken: readonly Taken[]): void {
    this.#untold += taken.length
    const told = this.#control.write(
      { type: 'taken', sequences: taken.map(({ sequence }) => sequence) },
      (error) => {
        if (error === undefined) return this.#settle(taken)
        // The giver finds no TAKEN at the end of control, and goes on.
        this.#untold -= taken.length
        this.#os.closeClients(
          taken.map(({ client: { fd } }) => ({ fd, peer: { family: 'unix', address: '', port: 0 } })),
        )
      },
    )
    // Rule: TAKEN_BEFORE_OFFER (docs/internals/model)
    if (told) this.#settle(taken)
  }

  #settle(taken: readonly Taken[]): void {
    this.#untold -= taken.length
    this.#host.parked(taken.map(({ client }) => client))
    this.#control.write({
      type: 'settled',
      entries: taken.map(({ sequence }) => ({ sequence, outcome: 'parked' })),
    })
  }

  #refuse(arrivals: readonly LaneArrival[], entries: readonly HandBack[], message: string): Received {
    this.#os.discard(arrivals.flatMap(({ fds }) => fds))
    this.#host.notTaken((entries[0] as HandBack).kind, 'refused', entries.length)
    return { given: 0, fault: new ProtocolError('BATON_ERR_FRAME_MALFORMED', message) }
  }
}
