import type { Socket } from 'node:net'
import type { ControlConnection, ControlEnd, Frame, Timer } from '@baton/backend-sdk/protocol'
import { ProtocolError } from '@baton/backend-sdk/protocol'
import type { Logger } from 'pino'
import type { Candidate } from '../balance/candidate.ts'
import type { ClientConnection } from '../connection/connection.ts'
import { type Failure, failureOf } from '../connection/failure.ts'
import { stateBytes } from '../connection/resume-state.ts'
import type { HandoffLane } from './lane.ts'
import { createToken, OfferLedger, type OpenOffer, toWire, type Unmatched } from './offer-ledger.ts'
import { type Os, systemOs } from '../os.ts'
import type { PendingDial } from '../relay/dial.ts'
import type { BackendIdentity, LinkHost } from './link-host.ts'
import type { HandBackCounts } from './hand-back-tally.ts'
import { HandBacks } from './hand-backs.ts'
import type { Attempt } from './failure-limit.ts'
import { RelayDials } from './relay-dials.ts'
import { ResumableSchemas } from './resumable-schemas.ts'
import { Eligibility, type EligibilityOptions } from './eligibility.ts'

/** Maximum NACKs with sequence 0 and an unknown token before a backend is cut off. */
const MAX_UNKNOWN_NACKS = 256

/** After this many milliseconds without an answer a backend counts as stuck, not busy. Several times a typical batch. */
const BUSY_TIMEOUT_MS = 50

/** If a timer is this late, this process did not run, or was busy, in ms: what has come meanwhile is read first, */
const LATE_MS = 5
/** within this time. */
export const READ_MS = 10

/** Maximum bytes of state in one OFFER, which is one frame: more than that of one connection, and well below the limit of frames. */
const MAX_OFFERED_STATE = 512 * 1024

export interface LinkOptions extends EligibilityOptions {
  /** Milliseconds. */
  readonly ackDeadline: number
  readonly tokenTtl: number
  readonly maxStuck: number
  /** How many connections it may be handing back; undefined when it may not. */
  readonly handBackWindow?: number | undefined
  /** It was granted keys for TLS session tickets. */
  readonly takesTicketKeys?: boolean
  /** It drains from now on, by its own decision or because it was asked to. */
  readonly drainBegins?: () => void
  /** The link has ended. Called after the host's `ended`. */
  readonly ended?: (link: BackendLink) => void
}

/**
 * One registered backend: its control connection, its lane and the ledger of what was offered to it.
 *
 * Owns the offers; the connections and their descriptors belong to the service.
 */
export class BackendLink implements Candidate {
  readonly identity: BackendIdentity
  readonly eligibility: Eligibility
  readonly #control: ControlConnection
  readonly #lane: HandoffLane
  readonly #options: LinkOptions
  readonly #host: LinkHost
  readonly #logger: Logger
  readonly #os: Os
  readonly #ledger = new OfferLedger()
  readonly #dials: RelayDials
  readonly #returns: HandBacks
  /**
   * A missed deadline was logged, and no ACK has come since: every client that is held would miss another one, for as long as a backend takes
   * nothing and its event loop answers (it is out of descriptors).
   */
  #missLogged = false
  /** The last one was not logged. */
  #missUnlogged = false
  #ackTimer: Timer | undefined
  #superseded = false
  #askedToReconnect = false
  #over = false
  /** When the drain ends, in milliseconds of `os.now()`. */
  #drainUntil = Number.POSITIVE_INFINITY
  #acked = 0
  /** Those of `#acked` that came from another worker. */
  #elsewhere = 0
  #adopted: number | undefined
  #closed = 0
  #lag: number | null = null
  readonly #schemas = new ResumableSchemas()
  #unknownNacks = 0
  /** When it last answered, or received an offer while none was open. */
  #busySince = 0

  constructor(
    identity: BackendIdentity,
    transport: { control: ControlConnection; lane: HandoffLane },
    options: LinkOptions,
    host: LinkHost,
    logger: Logger,
    os: Os = systemOs,
  ) {
    this.#os = os
    this.identity = identity
    this.#control = transport.control
    this.#lane = transport.lane
    this.#options = options
    this.#host = host
    const { ulid: backend, slot, service } = identity
    this.#logger = logger.child({ backend, slot, service })
    this.#returns = new HandBacks(identity, transport, options.handBackWindow, host, os)
    this.#dials = new RelayDials(os, this.#logger, (offer, failure) => this.#relayFailed(offer, failure))
    this.eligibility = new Eligibility(
      options,
      {
        probe: (id) => {
          if (!this.#control.backedUp) this.#control.write({ type: 'heartbeat', id, reply: false })
        },
        resumed: () => this.#host.available(),
      },
      this.#logger,
      os,
    )
  }

  /** The slot, so that under `source-hash` a backend's successor is chosen for the same clients. */
  get id(): string {
    return this.identity.slot
  }

  get weight(): number {
    return this.identity.weight
  }

  /** Connections that it has adopted and not closed, and those in flight to it. */
  get load(): number {
    return this.live + this.#ledger.size
  }

  /** Connections that it has adopted and not closed. */
  get live(): number {
    return Math.max(0, this.#acked - this.#closed)
  }

  /** Whether `live` includes what it had before it registered here. */
  get hasReported(): boolean {
    return this.#adopted !== undefined
  }

  /** How many connections it has handed back. */
  get handedBack(): number {
    return this.#returns.count
  }

  /** How many connections it may be handing back; 0 if it may not. */
  get handBackWindow(): number {
    return this.#options.handBackWindow ?? 0
  }

  /** Whether it can go on with connections whose state has this format. */
  resumes(schema: string): boolean {
    return this.#schemas.resumes(schema, this.#os.now())
  }

  /** Whether it may be offered one now: it has not just refused such a connection. */
  mayResume(schema: string): boolean {
    return this.#schemas.mayBeOffered(schema, this.#os.now())
  }

  /** Asks it to hand connections back that others would serve better. */
  rebalance(count: number): void {
    if (!this.#control.backedUp) this.#control.write({ type: 'rebalance', count })
  }

  /** Unanswered offers, without those taken past their deadline. */
  get expectedAcks(): number {
    return this.#ledger.size - this.#ledger.taken
  }

  /** Has unanswered offers, and answered or received the first of them recently. `now`: milliseconds of `os.now()`. */
  isBusy(now: number): boolean {
    return this.expectedAcks > 0 && now - this.#busySince <= BUSY_TIMEOUT_MS
  }

  /** Offers of clients without an outcome, without those of health checks. */
  get inFlight(): number {
    return this.#ledger.clients
  }

  /** Offers that the backend has taken and not acknowledged in time. */
  get stuck(): number {
    return this.#ledger.taken
  }

  get counts(): {
    adopted: number
    closed: number
    lag: number | null
  } & HandBackCounts {
    return {
      ...this.#returns.tally.counts,
      adopted: this.#acked,
      closed: this.#closed,
      lag: this.#lag,
    }
  }

  /**
   * Offers connections: descriptors on the lane in one batch, then the OFFER on control, which is the doorbell.
   *
   * @returns why `connections` from index `from` on could not be sent; outcomes of the others go to the host
   */
  offer(connections: readonly ClientConnection[]): { failure: Failure; from: number } | undefined {
    // No descriptor is sent while control has unwritten bytes: the doorbell must not be late.
    if (this.#control.backedUp || !this.#control.writable) return { failure: { code: 'WouldBlock' }, from: 0 }
    const room = fitting(connections)
    const messages = connections.slice(0, room).map(({ fd }) => ({ bytes: createToken(), fd: fd.fd }))
    const { sent, error } = this.#lane.send(messages)
    if (sent > 0) {
      const due = this.#dueFromNow()
      const deadline = this.#tokenDeadline()
      const offers: OpenOffer[] = []
      for (let index = 0; index < sent; index++) {
        const connection = connections[index] as ClientConnection
        connection.shared = true
        offers.push(this.#ledger.open(connection, (messages[index] as { bytes: Buffer }).bytes, due))
      }
      const now = this.#os.now()
      this.#control.write({ type: 'offer', offers: offers.map((offer) => toWire(offer, deadline, now)) })
      this.#armAckTimer()
    }
    if (error === undefined)
      return sent < connections.length ? { failure: { code: 'WouldBlock' }, from: sent } : undefined
    const failure = failureOf(error, `lane of ${this.identity.slot}`, connections[sent]?.fd.fd ?? -1)
    this.eligibility.failed(failure, 'handoff')
    return { failure, from: sent }
  }

  /**
   * Offers a relay: OFFER(relay) on control, and a connection to the backend's endpoint that begins with the same token. Nothing
   * is read from the client before the ACK, so a relay that fails costs it only time.
   */
  offerRelay(connection: ClientConnection): Failure | undefined {
    const { reconnect, uid } = this.identity
    if (reconnect === null || this.#control.backedUp || !this.#control.writable) return { code: 'WouldBlock' }
    const token = createToken()
    const offer = this.#ledger.open(connection, token, this.#dueFromNow(), 'relay')
    this.#control.write({ type: 'offer', offers: [toWire(offer, this.#tokenDeadline(), this.#os.now())] })
    this.#dials.dial(offer, { path: reconnect, uid })
    this.#armAckTimer()
    return undefined
  }

  /**
   * Asks the backend to drain, and makes no further offers to it. Of several deadlines, its own among them, the earliest counts.
   *
   * @returns whether this has an effect: the backend did not drain yet, or had more time
   */
  drain(deadline: number, reason: string): boolean {
    const until = this.#os.now() + deadline
    if (this.#over || this.#superseded || (this.eligibility.draining && until >= this.#drainUntil))
      return false
    this.#drains(deadline)
    this.#control.write({ type: 'drain', deadline: Math.round(deadline), reason })
    return true
  }

  /** The backend says in its HELLO that it drains: it is offered nothing. */
  alreadyDrains(): void {
    this.#drains()
  }

  /** The backend has registered again: makes no further offers here, and ends the link when every offer is settled. */
  supersede(): void {
    this.eligibility.drain()
    this.#superseded = true
    this.#endIfSuperseded()
  }

  /** RECONNECT was sent, so another registration of this process is expected. */
  get askedToReconnect(): boolean {
    return this.#askedToReconnect
  }

  /** Sends it the keys for TLS session tickets, if it takes them. */
  giveTicketKeys(keys: readonly string[] | undefined): void {
    if (this.#options.takesTicketKeys === true && keys !== undefined && !this.#over)
      this.#control.write({ type: 'ticket_keys', keys: [...keys] })
  }

  /** Asks the backend to register again, with the worker that accepts on the control socket now. This link stays open meanwhile. */
  askToReconnect(reason: string): void {
    // A draining backend takes no more connections, so no other worker needs it.
    if (this.eligibility.draining) return
    this.#askedToReconnect = true
    this.#control.write({ type: 'reconnect', reason })
  }

  /**
   * Disconnects the backend because this worker is leaving. Closing control has meaning (I3), so the lane is read back first, and
   * connections that were taken and not acknowledged are relinquished.
   */
  close(): void {
    this.#control.cutOff()
  }

  read(frames: readonly Frame[]): void {
    for (const frame of frames) {
      if (this.#over) return
      this.#handle(frame)
    }
    if (this.#superseded) this.#endIfSuperseded()
  }

  /** Control has ended: settles every open offer, and only then closes. */
  controlEnded(end: ControlEnd): void {
    if (this.#over) return
    // Whole frames at the very end count: an ACK there means that the connection was adopted before its owner died.
    // Rule: READ_CONTROL_TO_END (docs/internals/model)
    for (const frame of end.frames) if (frame.type === 'ack' || frame.type === 'nack') this.#handle(frame)
    if (this.#over) return
    const violation = end.error instanceof ProtocolError
    if (violation) {
      const { code, message } = end.error
      this.#logger.error({ code, reason: message }, 'backend broke the protocol and is cut off')
    } else if (end.error !== undefined) {
      this.#logger.warn({ error: end.error.message }, 'control connection failed')
    }
    // Control read to its end without an ACK is proof (I3). A connection that we cut off ourselves, or that broke the protocol,
    // proves nothing about what was taken.
    this.#finish(
      violation
        ? { code: 'ProtocolViolation' }
        : { code: this.eligibility.draining ? 'BackendDraining' : 'BackendGone' },
      end.by === 'peer' && !violation,
    )
  }

  #handle(frame: Frame): void {
    switch (frame.type) {
      case 'ack': {
        this.#busySince = this.#os.now()
        const adopted: ClientConnection[] = []
        const relayed: { connection: ClientConnection; pending: PendingDial }[] = []
        for (const { sequence, connection } of frame.acks) {
          const offer = this.#ledger.acked(sequence, connection)
          // The backend counts each adoption, even of a relay that was given up meanwhile, so the first late ACK of an offer counts,
          // but no repetition does.
          if (offer !== 'never-made' && offer !== 'settled') this.#acked += 1
          if (!this.#isMatched(offer, 'ACK')) continue
          const { resume } = offer.connection
          if (resume !== undefined) this.#schemas.took(resume.block.schema, this.#busySince)
          const pending = this.#dials.take(offer)
          if (pending === undefined) adopted.push(offer.connection)
          else relayed.push({ connection: offer.connection, pending })
        }
        if (adopted.length + relayed.length > 0) this.#missLogged = false
        if (adopted.length > 0) this.eligibility.succeeded('handoff')
        if (relayed.length > 0) this.eligibility.succeeded('relay')
        // Handoffs first, so that an error in a relay cannot keep their descriptors open.
        if (adopted.length > 0) this.#handedOff(adopted)
        for (const { connection, pending } of relayed) {
          pending.detach()
          this.#relayed(connection, pending.socket)
        }
        this.#host.available()
        return
      }
      case 'nack':
        this.#busySince = this.#os.now()
        for (const { sequence, reason, token } of frame.nacks) {
          this.#host.tokenRejected(reason)
          const offer = this.#ledger.nacked(sequence, token)
          if (sequence === 0 && offer === 'settled') this.#unknownToken()
          if (!this.#isMatched(offer, 'NACK')) continue
          this.#dials.take(offer)?.cancel()
          const failure: Failure = { code: reason }
          this.eligibility.failed(failure, attemptOf(offer))
          const { resume } = offer.connection
          if (resume !== undefined) this.#schemas.refused(resume.block.schema, reason, this.#busySince)
          this.#returned([offer.connection], failure)
        }
        return
      case 'stats':
        // Connections from another worker count as load, too: those adopted before this registration, and those that were on their way.
        this.#adoptedElsewhere(this.#adopted === undefined ? frame.adopted : frame.adopted - this.#acked)
        this.#adopted = frame.adopted
        this.#closed = frame.closed
        this.#lag = frame.lag
        this.#host.available()
        this.#host.reported()
        return
      case 'heartbeat':
        if (!frame.reply) this.#reply(frame.id)
        else if (this.eligibility.answered(frame.id)) {
          if (!this.#missUnlogged) this.#logger.info('backend answers again')
          this.#missUnlogged = false
          this.#host.available()
        }
        return
      case 'drain':
        if (!this.eligibility.draining) this.#logger.info({ reason: frame.reason }, 'backend is draining')
        this.#drains(frame.deadline ?? undefined)
        return
      case 'drained':
        this.#drains()
        this.#logger.info('backend has drained')
        this.#drainOver()
        return
      case 'handback': {
        const { given, fault } = this.#returns.received(frame.entries, this.#acked, this.#elsewhere)
        // The giver counts each of them as closed, in a STATS that may come later. The next connection is to be balanced by the load of now.
        this.#closed += frame.entries.length
        // It goes on with these, and counts them as adopted once more.
        this.#acked += given
        if (fault !== undefined) this.#control.cutOff(fault)
        return
      }
      case 'resumes':
        if (this.#options.handBackWindow === undefined) {
          this.#control.cutOff(new ProtocolError('BATON_ERR_FRAME_MALFORMED', 'RESUMES was not granted'))
          return
        }
        if (this.#schemas.say(frame.schemas)) this.#host.resumable(this.id)
        return
      // FrameOrder refuses these at a broker.
      case 'hello':
      case 'welcome':
      case 'refused':
      case 'reconnect':
      case 'offer':
      case 'revoke':
      case 'rebalance':
      case 'taken':
      case 'given_back':
      case 'settled':
      case 'ticket_keys':
        return
    }
  }

  /** @param deadline undefined if it has none, or has not said it yet */
  #drains(deadline?: number): void {
    if (deadline !== undefined) this.#drainUntil = Math.min(this.#drainUntil, this.#os.now() + deadline)
    const isFirst = !this.eligibility.draining
    this.eligibility.drain()
    this.#returns.tally.drainBegins()
    if (isFirst) this.#options.drainBegins?.()
  }

  /** Once for each drain, however many connections it moved. */
  #drainOver(): void {
    const counts = this.#returns.tally.drainEnds()
    if (counts !== undefined) this.#host.drainOver(this.identity, counts)
  }

  #adoptedElsewhere(count: number): void {
    if (count <= 0) return
    this.#acked += count
    this.#elsewhere += count
  }

  /** A NACK for an unknown token. Tolerates a few, but not many: each costs a search through the open offers. */
  #unknownToken(): void {
    this.#unknownNacks += 1
    if (this.#unknownNacks <= MAX_UNKNOWN_NACKS) return
    this.#control.cutOff(
      new ProtocolError('BATON_ERR_FRAME_MALFORMED', 'too many NACKs for tokens that were never offered'),
    )
  }

  /** Not to a peer that does not read: answers to its heartbeats must not fill this process's memory. */
  #reply(id: number): void {
    if (!this.#control.backedUp) this.#control.write({ type: 'heartbeat', id, reply: true })
  }

  #isMatched(offer: OpenOffer | Unmatched, answer: string): offer is OpenOffer {
    if (offer === 'settled' || offer === 'given-up') this.#host.lateAnswer()
    else if (offer === 'never-made') {
      this.#logger.error({ answer }, 'backend answered an offer that was never made')
      this.#control.cutOff(
        new ProtocolError('BATON_ERR_FRAME_MALFORMED', `${answer} for an offer that was never made`),
      )
    } else return true
    return false
  }

  /** When the ACKs of offers made now are due, in milliseconds of `os.now()`. */
  #dueFromNow(): number {
    const now = this.#os.now()
    if (this.expectedAcks === 0) this.#busySince = now
    return now + this.#options.ackDeadline
  }

  #tokenDeadline(): bigint {
    return this.#os.hrtime() + BigInt(Math.round(this.#options.tokenTtl * 1e6))
  }

  /** The endpoint could not be reached, or the connection to it broke before the ACK. */
  #relayFailed(offer: OpenOffer, failure: Failure): void {
    if (!this.#ledger.cancel(offer)) return
    this.#control.write({ type: 'revoke', sequences: [offer.sequence] })
    this.eligibility.failed(failure, 'relay')
    this.#returned([offer.connection], failure)
    this.#endIfSuperseded()
  }

  #armAckTimer(): void {
    const due = this.#ledger.nextDue()
    if (this.#ackTimer !== undefined || due === undefined) return
    this.#ackTimer = this.#os.setTimeout(
      () => {
        if (this.#os.now() - due < LATE_MS) return this.#ackTimerEnds()
        this.#ackTimer = this.#os.setTimeout(() => this.#ackTimerEnds(), READ_MS)
      },
      Math.max(1, due - this.#os.now()),
    )
  }

  #ackTimerEnds(): void {
    this.#ackTimer = undefined
    this.#onAckTimer()
    this.#armAckTimer()
  }

  /** The ACK deadline of the oldest offer: reads the lane back. Messages still there wait behind a stuck event loop. */
  #onAckTimer(): void {
    const now = this.#os.now()
    const due = this.#ledger.nextDue()
    if (due === undefined || due > now) return
    // Rule: REROUTE_ONLY_ON_PROOF, ACK_DEADLINE (docs/internals/model)
    const revoked = this.#revoke(now)
    const taken = this.#ledger.noteTaken(now)
    this.#control.write({ type: 'heartbeat', id: this.eligibility.missed(now), reply: false })
    this.#missUnlogged = this.#missLogged
    if (!this.#missLogged)
      this.#logger.warn({ revoked: revoked.length, taken }, 'no ACK by the deadline; lane read back')
    this.#missLogged = true
    const failure: Failure = { code: 'BackendAckTimeout' }
    const isOfRelays = taken === 0 && revoked.every((offer) => attemptOf(offer) === 'relay')
    this.eligibility.failed(failure, isOfRelays ? 'relay' : 'handoff')
    for (;;) {
      const oldest = this.#ledger.relinquish(this.#options.maxStuck)
      if (oldest === undefined) break
      this.#relinquished(oldest.connection)
    }
    if (revoked.length > 0)
      this.#returned(
        revoked.map(({ connection }) => connection),
        failure,
      )
    this.#endIfSuperseded()
  }

  /** Only once no offer is open, so that the end of control has nothing to settle. */
  #endIfSuperseded(): void {
    if (this.#superseded && !this.#over && this.#ledger.size === 0)
      this.#finish({ code: 'BackendDraining' }, true)
  }

  /** Reads the lane back and tells the backend to forget those tokens. */
  #revoke(now: number): OpenOffer[] {
    const relays = this.#ledger.overdueRelays(now)
    for (const relay of relays) this.#dials.take(relay)?.cancel()
    const offers = [...relays, ...this.#readLaneBack().offers]
    if (offers.length > 0) {
      this.#control.write({ type: 'revoke', sequences: offers.map(({ sequence }) => sequence) })
    }
    return offers
  }

  #readLaneBack(): { offers: OpenOffer[]; whole: boolean } {
    const { tokens, error } = this.#lane.readBack()
    if (error) this.#logger.error({ error: error.message }, 'lane could not be read back')
    return {
      offers: tokens.flatMap((token) => this.#ledger.readBack(token) ?? []),
      whole: error === undefined,
    }
  }

  /** @param untouched control's end proves that nothing without an ACK was touched, even if it is no longer on the lane */
  #finish(failure: Failure, untouched: boolean): void {
    this.#over = true
    this.eligibility.close()
    this.#os.clear(this.#ackTimer)
    // Rule: BROKER_LETS_GO_FIRST, RETURN_AT_END (docs/internals/model)
    const { offers: back, whole } = this.#readLaneBack()
    const rest = this.#ledger.end()
    for (const offer of rest) {
      this.#dials.take(offer)?.cancel()
      if ((untouched && whole) || offer.kind === 'relay') back.push(offer)
      else this.#relinquished(offer.connection)
    }
    this.#lane.close()
    this.#control.close()
    this.#drainOver()
    this.#host.ended(this)
    this.#options.ended?.(this)
    const connections = back.map(({ connection }) => connection)
    if (connections.length > 0) this.#returned(connections, failure)
  }

  // Health checks are offered like clients, but receive their own outcome: it is not counted for the service, and they are never
  // offered again.

  #handedOff(connections: readonly ClientConnection[]): void {
    for (const { probe } of connections) probe?.handedOff()
    const clients = clientsOf(connections)
    this.eligibility.tally.adopted += clients.length
    if (clients.length > 0) this.#host.handedOff(clients, this.identity.version)
  }

  #relayed(connection: ClientConnection, upstream: Socket): void {
    if (connection.probe) return connection.probe.relayed(upstream)
    this.eligibility.tally.adopted += 1
    this.#host.relayed(connection, upstream, this.identity.version)
  }

  #returned(connections: readonly ClientConnection[], failure: Failure): void {
    for (const { probe } of connections) probe?.returned(failure)
    const clients = clientsOf(connections)
    if (clients.length > 0) this.#host.returned(clients, failure, this.id)
  }

  #relinquished(connection: ClientConnection): void {
    if (connection.probe) connection.probe.relinquished()
    else this.#host.relinquished(connection)
  }
}

/**
 * How many of these, from the front, go into one OFFER. State is large, and a backend that reads slowly must not make this process
 * queue much of it: the others find another backend, or wait for the ACK of these.
 */
function fitting(connections: readonly ClientConnection[]): number {
  let bytes = 0
  for (const [index, { resume }] of connections.entries()) {
    if (resume === undefined) continue
    bytes += stateBytes(resume.block)
    if (bytes > MAX_OFFERED_STATE && index > 0) return index
  }
  return connections.length
}

function attemptOf({ kind }: OpenOffer): Attempt {
  return kind === 'relay' ? 'relay' : 'handoff'
}

function clientsOf(connections: readonly ClientConnection[]): readonly ClientConnection[] {
  return connections.some(({ probe }) => probe !== undefined)
    ? connections.filter(({ probe }) => probe === undefined)
    : connections
}
