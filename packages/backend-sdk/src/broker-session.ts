import { randomBytes } from 'node:crypto'
import type { OwnedFd } from '@baton/native-sendmsg'
import { type BackendLane, LANE_BATCH, openBackendLane } from './backend-lane.ts'
import { type Clock, systemClock, type Timer } from './clock.ts'
import { ControlConnection, type ControlEnd } from './control/control-connection.ts'
import { type ControlStream, openControlStream } from './control/control-stream.ts'
import { HandBackLedger } from './hand-back-ledger.ts'
import { PauseWindow } from './pause-window.ts'
import {
  type Frame,
  type FrameOrder,
  type GivenBackReason,
  HANDBACK_CAPABILITY,
  type NackReason,
  type Offer,
  ProtocolError,
  type ResumedBlock,
  type StatsFrame,
  TICKETS_CAPABILITY,
  TOKEN_LENGTH,
  type WelcomeFrame,
} from './protocol/index.ts'
import type { Registration } from './registration.ts'
import type { IncomingRelay } from './relay/relay-endpoint.ts'
import type { Relays } from './relay/relays.ts'
import { throwLater } from './throw-later.ts'
import { TokenLedger, type Verdict } from './token-ledger.ts'

/** The channels of a session, which owns them. */
export interface SessionTransport {
  readonly control: ControlStream
  readonly lane: BackendLane
  readonly relays: Omit<Relays, 'path'>
  readonly welcome: WelcomeFrame
  /** Has already checked WELCOME. */
  readonly order: FrameOrder
}

/**
 * Takes ownership of the registration's descriptors.
 *
 * @throws {NativeError} EMFILE; the caller must still close the registration
 */
export function openTransport({ control, lane, ...rest }: Registration): SessionTransport {
  return { ...rest, control: openControlStream(control), lane: openBackendLane(lane) }
}

/** A session's interface to its backend. */
export interface BrokerSessionHost {
  /** Why a verified connection is to be refused, or undefined to adopt it. `pending`: connections verified but not yet adopted. */
  refusal(pending: number): 'BackendDraining' | 'BackendOverloaded' | undefined
  /** Takes ownership of the connection. Called only once the ACK is in the kernel (I2), or when the broker is gone. */
  adopt(offer: Offer, delivery: Delivery): void
  rejected(reason: NackReason): void
  stats(): Omit<StatsFrame, 'type'>
  /** Connections adopted so far, as in `stats`. */
  adopted(): number
  /** The schemas that this process resumes. */
  resumes(): string[]
  drainRequested(deadline: number | null, reason: string): void
  reconnectRequested(reason: string): void
  /** Keys for TLS session tickets, in base64: the first for new ones. None: the broker gives none. */
  ticketKeys(keys: readonly string[]): void
  /** Others would serve `count` connections better. */
  rebalance(count: number): void
  /** The control connection has ended. The session still decides about the connections it holds, and then calls `closed`. */
  ended(end: ControlEnd): void
  /** These connections were handed back and are this process's again: adopts them as the next backend would have. Owns their descriptors. */
  adoptAgain(connections: readonly Departure[], reason: GivenBackReason | undefined): void
  /** There may be room for more connections to be handed back. */
  handBackRoom(): void
  /** `isSettled` has become true. */
  settled(): void
  /** The session has closed or given away everything it owned. */
  closed(): void
}

/** A connection that leaves this process. */
export interface Departure {
  /** Its duplicate, until the broker has taken it. */
  readonly fd: OwnedFd
  readonly described: Pick<Offer, 'connection' | 'listener' | 'meta'>
  /** Milliseconds that an idle one may stay idle; `NO_KEEP_ALIVE_LIMIT` for no limit. */
  readonly keepAlive: number
  /** How often it was given back before. */
  readonly givenBack: number
  /** The next process needs this to resume it. Undefined: it is idle. */
  readonly resumed?: ResumedBlock
}

/** A connection as it arrives: a descriptor from the lane, or a relay that the broker has dialled. */
export type Delivery = number | IncomingRelay

type Accepted = Extract<Verdict<Delivery>, { kind: 'accept' }>
type Refused = Extract<Verdict<Delivery>, { kind: 'refuse' }>

const EMPTY = Buffer.alloc(0)

/** The fields of a HANDBACK entry that an idle connection leaves empty. */
const NOTHING_TO_RESUME = {
  kind: 'idle',
  schema: '',
  prefix: EMPTY,
  requestHead: EMPTY,
  answerHead: EMPTY,
  state: EMPTY,
} as const

/** Frames that still count when they are found at the very end of control. */
const SETTLING_FRAMES: ReadonlySet<Frame['type']> = new Set(['offer', 'revoke', 'taken', 'given_back'])

/** Frames that need a capability. */
const NEEDS_GRANT: ReadonlyMap<Frame['type'], string> = new Map([
  ['rebalance', HANDBACK_CAPABILITY],
  ['taken', HANDBACK_CAPABILITY],
  ['given_back', HANDBACK_CAPABILITY],
  ['settled', HANDBACK_CAPABILITY],
  ['ticket_keys', TICKETS_CAPABILITY],
])

/** Interval of STATS and of a sweep of the lane. The protocol requires STATS at least once a second. */
const TICK_MS = 1000

/**
 * One registration with one broker: a control connection, a lane and the tokens between them.
 *
 *     open --control ends--> settling --lane at EOF, or nothing held--> closed
 *       \------------------------ close() -----------------------------/
 *
 * The session owns each descriptor from the moment it leaves the lane until `host.adopt` or `close`.
 */
export class BrokerSession {
  readonly welcome: WelcomeFrame
  readonly #host: BrokerSessionHost
  readonly #control: ControlConnection
  readonly #lane: BackendLane
  readonly #clock: Clock
  readonly #relays: SessionTransport['relays']
  readonly #descriptors: TokenLedger
  readonly #dialled: TokenLedger<IncomingRelay>
  readonly #tick: Timer
  /** Verified connections whose ACK is written but not yet known to be in the kernel, oldest first. Not to be touched until it is. */
  readonly #unacked: Accepted[] = []
  readonly #settled: (() => void)[] = []
  readonly #departures: HandBackLedger<Departure>
  /** When those with state were let go, by sequence. They have no outcome yet. */
  readonly #letGoAt = new Map<number, number>()
  readonly #pauses = new PauseWindow()
  /** `handback/1` was granted. */
  readonly #granted: boolean
  /** The broker has said that it takes none. */
  #handBackOff: boolean
  /** How many adopted connections the broker knows of: it accepts no more hand-backs than that. */
  #reported: number
  #announcedResumes = false
  /** While settling: closes everything, untouched. */
  #abandon: (() => void) | undefined
  #state: 'open' | 'settling' | 'closed' = 'open'

  constructor(transport: SessionTransport, host: BrokerSessionHost, clock: Clock = systemClock) {
    this.#host = host
    this.#clock = clock
    this.welcome = transport.welcome
    this.#lane = transport.lane
    this.#relays = transport.relays
    const { capabilities, handBackWindow } = transport.welcome
    this.#granted = capabilities.includes(HANDBACK_CAPABILITY)
    this.#handBackOff = !this.#granted
    this.#departures = new HandBackLedger(handBackWindow ?? 0)
    // Milliseconds may have a fraction.
    const tokenTtl = BigInt(Math.round(transport.welcome.tokenTtl * 1e6))
    this.#descriptors = new TokenLedger(tokenTtl)
    this.#dialled = new TokenLedger(tokenTtl)
    this.#control = new ControlConnection(transport.control, transport.order, {
      frames: (frames) => this.#read(frames),
      ended: (end) => this.#ended(end),
    })
    this.#control.welcomed()
    // Before any ACK, so that the broker counts from what this backend already holds.
    this.#reported = this.#writeStats()
    this.announceResumes()
    this.#tick = clock.setInterval(() => this.#onTick(), TICK_MS)
    this.#tick.unref()
    this.#relays.onArrival((relay) => this.#onRelay(relay))
  }

  get open(): boolean {
    return this.#state === 'open'
  }

  /** Resolves when no connection is between its ACK and its adoption, and the broker has answered for every one that was handed back. */
  async whenSettled(): Promise<void> {
    while (!this.isSettled) await new Promise<void>((resolve) => this.#settled.push(resolve))
  }

  get isSettled(): boolean {
    return this.#unacked.length + this.#departures.unanswered === 0
  }

  /** Connections were handed back, and the broker has not answered. */
  get awaitsAnswer(): boolean {
    return this.#departures.unanswered > 0
  }

  /** See `HandBackLedger`. */
  get oldestUnanswered(): number | undefined {
    return this.#departures.oldestUnanswered
  }

  /** Whether the broker takes connections back from here. */
  get takesBack(): boolean {
    return this.open && !this.#handBackOff
  }

  /** How many connections with state can be handed back now, if there is `handBackRoom`. */
  get moveRoom(): number {
    return Math.max(0, this.#pauses.size - this.#departures.unsettled)
  }

  /** How many connections can be handed back now. */
  get handBackRoom(): number {
    return this.takesBack && !this.#control.backedUp ? Math.min(this.#departures.room, LANE_BATCH) : 0
  }

  /**
   * Hands connections back, as many as there is room for on the lane; those are the session's from here on. `letGo` is called for each
   * of them: this process must not touch its socket afterwards. The others stay the caller's, descriptors included. All in one
   * step, without a turn of the event loop in which something could be read (M2).
   * Rule: LET_GO_IN_ONE_STEP, PREFIX_GOES_ALONG (docs/internals/model)
   *
   * @param departures at most `handBackRoom`, and each small enough for an entry of HANDBACK
   * @param letGo returns what was read of the connection and not consumed. Must not throw: the lane holds the descriptor already
   * @returns how many, from the front
   */
  handBack(departures: readonly Departure[], letGo: (index: number) => Buffer): number {
    // Rule: HANDBACK_LANE_FIRST (docs/internals/model)
    const tokens = randomBytes(TOKEN_LENGTH * departures.length)
    const messages = departures.map(({ fd }, index) => ({
      bytes: tokens.subarray(index * TOKEN_LENGTH, (index + 1) * TOKEN_LENGTH),
      fd: fd.fd,
    }))
    const sent = this.#lane.handBack(messages)
    if (sent === 0) return 0
    const entries = departures.slice(0, sent).map((each, index) => {
      const prefix = letGo(index)
      const departure = each.resumed === undefined ? each : { ...each, resumed: { ...each.resumed, prefix } }
      const sequence = this.#departures.add(departure)
      if (departure.resumed !== undefined) this.#letGoAt.set(sequence, performance.now())
      return {
        ...departure.described,
        ...(departure.resumed ?? NOTHING_TO_RESUME),
        sequence,
        token: (messages[index] as { bytes: Buffer }).bytes,
        keepAlive: departure.keepAlive,
      }
    })
    // At a reload, connections may have come from the previous worker after this registration.
    if (this.#host.adopted() > this.#reported) this.#reported = this.#writeStats()
    this.#control.write({ type: 'handback', entries })
    return sent
  }

  /** Tells the broker what this process resumes, also that it is nothing any more. */
  announceResumes(): void {
    if (!this.open || !this.#granted) return
    const schemas = this.#host.resumes()
    if (schemas.length === 0 && !this.#announcedResumes) return
    this.#announcedResumes = true
    this.#control.write({ type: 'resumes', schemas })
  }

  /** Asks the broker to send no more connections. */
  announceDrain(deadline: number | null, reason: string): void {
    if (this.open) this.#control.write({ type: 'drain', deadline, reason })
  }

  /** Deregisters: every adopted connection has ended. */
  announceDrained(): void {
    if (!this.open) return
    this.#writeStats()
    this.#control.write({ type: 'drained' })
  }

  /**
   * Closes the session: first the connections without an ACK, untouched, and only then control (I3). Descriptors that are still
   * on the lane stay in its queue, where the broker reads them back.
   */
  close(): void {
    if (this.#state === 'settling') return this.#abandon?.()
    if (this.#state !== 'open') return
    this.#state = 'closed'
    this.#clock.clear(this.#tick)
    // An ACK that is not in the kernel yet must not be sent once its descriptor has been closed.
    const ackQueued = this.#unacked.length > 0
    // Rule: BACKEND_LETS_GO_FIRST (docs/internals/model)
    this.#dropUnadopted()
    for (const { fd } of this.#departures.end()) fd.close()
    this.#noteSettled()
    if (ackQueued) return this.#control.cutOff()
    this.#control.finish()
    // A broker that does not read must not keep this process alive.
    this.#clock.setTimeout(() => this.#control.cutOff(), TICK_MS).unref()
  }

  /** Handles all frames before the lane is read, because a REVOKE may follow its OFFER. */
  #read(frames: readonly Frame[]): void {
    if (this.#state !== 'open') return
    const verdicts: Verdict<Delivery>[] = []
    for (const frame of frames) this.#handle(frame, verdicts)
    this.#takeFromLane(verdicts)
    this.#answer(verdicts)
  }

  #handle(frame: Frame, verdicts: Verdict<Delivery>[]): void {
    const needed = NEEDS_GRANT.get(frame.type)
    if (needed !== undefined && !this.welcome.capabilities.includes(needed))
      return this.#notGranted(frame.type.toUpperCase(), needed)
    switch (frame.type) {
      case 'offer': {
        const now = this.#clock.hrtime()
        for (const offer of frame.offers) {
          if (offer.kind === 'resumed' && !this.#granted)
            return this.#notGranted('OFFER to resume', HANDBACK_CAPABILITY)
          const ledger = offer.kind === 'relay' ? this.#dialled : this.#descriptors
          const verdict = ledger.offered(offer, now)
          if (verdict) verdicts.push(verdict)
        }
        return
      }
      case 'revoke':
        this.#descriptors.revoked(frame.sequences)
        this.#dialled.revoked(frame.sequences)
        return
      case 'heartbeat':
        if (!frame.reply && !this.#control.backedUp) {
          this.#control.write({ type: 'heartbeat', id: frame.id, reply: true })
        }
        return
      case 'drain':
        this.#host.drainRequested(frame.deadline, frame.reason)
        return
      case 'reconnect':
        this.#host.reconnectRequested(frame.reason)
        return
      case 'taken':
        // Rule: GIVER_KEEPS_UNTIL_TAKEN (docs/internals/model)
        for (const { fd } of this.#departures.taken(frame.sequences)) fd.close()
        this.#noteSettled()
        return
      case 'given_back':
        for (const { sequence, reason } of frame.entries) this.#givenBack(sequence, reason)
        this.#noteSettled()
        return
      case 'settled':
        for (const { sequence } of frame.entries) this.#settledOne(sequence)
        this.#host.handBackRoom()
        return
      case 'rebalance':
        this.#host.rebalance(frame.count)
        return
      case 'ticket_keys':
        this.#host.ticketKeys(frame.keys)
        return
      // FrameOrder rejects these at a backend.
      case 'hello':
      case 'welcome':
      case 'refused':
      case 'drained':
      case 'stats':
      case 'ack':
      case 'nack':
      case 'handback':
      case 'resumes':
        return
    }
  }

  #settledOne(sequence: number): void {
    this.#departures.settled(sequence)
    const letGoAt = this.#letGoAt.get(sequence)
    if (letGoAt === undefined) return
    this.#letGoAt.delete(sequence)
    this.#pauses.settled(performance.now() - letGoAt)
  }

  #givenBack(sequence: number, reason: GivenBackReason): void {
    this.#letGoAt.delete(sequence)
    const departure = this.#departures.givenBack(sequence)
    if (departure === undefined) return
    if (reason === 'Stopping') this.#handBackOff = true
    this.#reported += 1
    this.#host.adoptAgain([departure], reason)
  }

  /** A relay corresponds to a message on the lane; the token in its header identifies it. */
  #onRelay(relay: IncomingRelay): void {
    if (this.#state !== 'open') return void relay.socket.destroy()
    const { token } = relay
    const verdict = this.#dialled.arrived(
      { bytes: token, length: token.length, fds: [relay], controlTruncated: false },
      this.#clock.hrtime(),
    )
    if (verdict) this.#answer([verdict])
  }

  /** Receives until every waiting offer has its message, or the lane is empty; at least `least` messages are tried. */
  #takeFromLane(verdicts: Verdict<Delivery>[], least = 0): void {
    let wanted = Math.max(this.#descriptors.waiting, least)
    while (wanted > 0) {
      const asked = Math.min(wanted, LANE_BATCH)
      const { messages, error } = this.#lane.take(asked)
      const now = this.#clock.hrtime()
      for (const message of messages) {
        const verdict = this.#descriptors.arrived(message, now)
        if (verdict) verdicts.push(verdict)
      }
      if (error) process.emitWarning(`lane: ${error.message}`, { code: error.code })
      if (messages.length < asked) return
      wanted = this.#descriptors.waiting
    }
  }

  /** Writes one NACK and one ACK for a whole wake-up, and adopts the ACKed connections once the ACK is in the kernel (I2). */
  #answer(verdicts: readonly Verdict<Delivery>[]): void {
    if (verdicts.length === 0) return
    const accepted: Accepted[] = []
    const refused: Refused[] = []
    for (const verdict of verdicts) {
      if (verdict.kind === 'refuse') {
        refused.push(verdict)
        continue
      }
      const refusal = this.#cannotResume(verdict)
        ? 'NotResumable'
        : this.#host.refusal(accepted.length + this.#unacked.length)
      if (refusal === undefined) {
        accepted.push(verdict)
        continue
      }
      const { offer, fd } = verdict
      refused.push({
        kind: 'refuse',
        sequence: offer.sequence,
        reason: refusal,
        token: offer.token,
        fds: [fd],
      })
    }
    // Rule: NACK_AFTER_CLOSE (docs/internals/model)
    // Close first: a NACK states that this process no longer has a copy.
    this.#discard(refused)
    if (refused.length > 0) {
      this.#control.write({
        type: 'nack',
        nacks: refused.map(({ sequence, reason, token }) => ({ sequence, reason, token })),
      })
    }
    if (accepted.length > 0) this.#acknowledge(accepted)
    for (const { reason } of refused) this.#host.rejected(reason)
  }

  /** Whether it needs a state of the app to go on with this connection, and there is no app here that resumes such states. */
  #cannotResume({ offer }: Accepted): boolean {
    return offer.resumed !== undefined && !this.#host.resumes().includes(offer.resumed.schema)
  }

  #notGranted(what: string, capability: string): void {
    const message = `${what} without ${capability}`
    this.#control.cutOff(new ProtocolError('BATON_ERR_FRAME_OUT_OF_ORDER', message))
  }

  #acknowledge(accepted: readonly Accepted[]): void {
    this.#unacked.push(...accepted)
    const taken = this.#control.write(
      {
        type: 'ack',
        acks: accepted.map(({ offer }) => ({ sequence: offer.sequence, connection: offer.connection })),
      },
      // After an error they stay unacked; the end of control follows and decides.
      (error) => {
        if (error === undefined) this.#adopt(accepted.length)
      },
    )
    // Rule: ACK_BEFORE_TOUCH (docs/internals/model)
    if (taken) this.#adopt(accepted.length)
  }

  /**
   * Adopts the oldest `count` connections: ACKs reach the kernel in the order in which they were written. Fewer are left if
   * close() or the end of control has dropped them meanwhile.
   */
  #adopt(count: number): void {
    for (let left = count; left > 0; left--) {
      const each = this.#unacked.shift()
      if (each === undefined) break
      this.#reported += 1
      try {
        this.#host.adopt(each.offer, each.fd)
      } catch (error) {
        // An app listener threw; the remaining connections are still adopted.
        throwLater(error)
      }
    }
    this.#noteSettled()
  }

  #noteSettled(): void {
    if (!this.isSettled) return
    for (const resolve of this.#settled.splice(0)) resolve()
    this.#host.settled()
  }

  /**
   * Descriptors are received when their OFFER is read, so normally the lane is empty here. A message whose OFFER is missing or
   * still unread is parked, and expires like any other.
   */
  #onTick(): void {
    const now = this.#clock.hrtime()
    const verdicts: Verdict<Delivery>[] = [...this.#descriptors.expire(now), ...this.#dialled.expire(now)]
    this.#takeFromLane(verdicts, LANE_BATCH)
    this.#answer(verdicts)
    this.sendStats()
    // Some that were to leave may not have been able to: no descriptors left, or too many in flight between the processes of this user.
    if (this.takesBack) this.#host.handBackRoom()
  }

  /** The counters are cumulative, so skipping a report loses nothing if the broker does not read. */
  sendStats(): void {
    if (this.open && !this.#control.backedUp) this.#reported = this.#writeStats()
  }

  /** @returns connections adopted so far, as reported */
  #writeStats(): number {
    const stats = this.#host.stats()
    this.#control.write({ type: 'stats', ...stats })
    return stats.adopted
  }

  #ended(end: ControlEnd): void {
    this.#clock.clear(this.#tick)
    const wasOpen = this.#state === 'open'
    if (wasOpen) {
      this.#state = 'settling'
      this.#host.ended(end)
    }
    if (wasOpen && end.by === 'peer') return this.#settle(end.frames)
    // The broker broke the protocol, or something failed here: close everything, untouched, before control (I3).
    // Whether the broker has taken what was handed back cannot be known: it must not have two owners.
    for (const { fd } of this.#departures.end()) fd.close()
    this.#dropUnadopted()
    this.#closeTransport()
  }

  /**
   * The broker is dead or has closed control. Connections whose OFFER was read are adopted without a delivered ACK, but only
   * once the lane has reached EOF too: then no other process can read them back, and they belong to this one alone.
   */
  #settle(frames: readonly Frame[]): void {
    const verdicts: Verdict<Delivery>[] = []
    for (const frame of frames) {
      if (SETTLING_FRAMES.has(frame.type)) this.#handle(frame, verdicts)
    }
    // Rule: ADOPT_AGAIN_ONLY_WITHOUT_TAKEN (docs/internals/model)
    const departures = this.#departures.end()
    if (departures.length > 0) this.#host.adoptAgain(departures, undefined)
    this.#noteSettled()
    this.#hold(verdicts)
    const finish = () => {
      const late: Verdict<Delivery>[] = []
      this.#takeFromLane(late)
      this.#hold(late)
      this.#discard(this.#endLedgers())
      this.#adopt(this.#unacked.length)
      this.#closeTransport()
    }
    // Rule: LANE_EOF (docs/internals/model)
    if (this.#lane.ended) return finish()

    const unwatch = this.#lane.whenEnded(() => {
      stop()
      finish()
    })
    const stop = () => {
      this.#clock.clear(giveUp)
      unwatch()
      this.#abandon = undefined
    }
    this.#abandon = () => {
      stop()
      this.#dropUnadopted()
      this.#closeTransport()
    }
    // No EOF: another process inherited the lane's other end, so nothing proves that the queue is ours alone.
    const giveUp = this.#clock.setTimeout(this.#abandon, this.welcome.tokenTtl)
  }

  /** Keeps the accepted connections, untouched until the lane is at its end, and closes the refused ones. */
  #hold(verdicts: readonly Verdict<Delivery>[]): void {
    const kept = verdicts.filter((verdict) => verdict.kind === 'accept' && !this.#cannotResume(verdict))
    this.#discard(verdicts.filter((verdict) => !kept.includes(verdict)))
    this.#unacked.push(...(kept as Accepted[]))
  }

  #dropUnadopted(): void {
    this.#discard(this.#unacked.splice(0))
    this.#noteSettled()
    this.#discard(this.#endLedgers())
  }

  #endLedgers(): Verdict<Delivery>[] {
    return [...this.#descriptors.end(), ...this.#dialled.end()]
  }

  #closeTransport(): void {
    this.#state = 'closed'
    this.#relays.close()
    this.#lane.close()
    this.#control.close()
    this.#host.closed()
  }

  /** Closes the connections of these verdicts, untouched. */
  #discard(verdicts: Iterable<Verdict<Delivery>>): void {
    for (const verdict of verdicts) {
      for (const delivery of verdict.kind === 'accept' ? [verdict.fd] : verdict.fds) {
        if (typeof delivery === 'number') this.#lane.discard(delivery)
        else delivery.socket.destroy()
      }
    }
  }
}
