import type { FailureCode } from '../connection/failure.ts'
import {
  type FallbackAction,
  type FallbackReason,
  HANDBACK_KINDS,
  type HandBackKind,
  type HandBackResult,
  type NotTakenReason,
  OUTCOMES,
  type Outcome,
  RELAY_DIRECTIONS,
  SHIFT_SIDES,
  type ShiftSide,
  type RejectionReason,
  TOKEN_REASONS,
  type TokenReason,
} from '../../metrics/labels.ts'
import type { Metrics } from '../../metrics/metrics.ts'
import type { Numbers } from '../copies/accounts.ts'
import { LatencyHistogram } from '../events/latency-histogram.ts'

const TAKEN = HANDBACK_KINDS.map((kind) => `${kind}/taken` as const)

/**
 * Counters of one service since the start; their single owner. Counting is a plain addition, because it happens for each
 * connection; `publish` brings the metrics up to date.
 */
export class ServiceStats {
  readonly outcomes: Record<Outcome, number> = Object.fromEntries(
    OUTCOMES.map((outcome) => [outcome, 0]),
  ) as Record<Outcome, number>
  lateAnswers = 0
  /** Connections accepted here for this service: by its listeners, or by those whose routes chose it. */
  accepted = 0
  /** Connections from a predecessor's hold queue, accepted there and settled here; and those sent to a successor's. */
  movedIn = 0
  /** Connections whose next request is routed again: where they arrive next, they count as routed there. */
  rerouted = 0
  movedOut = 0
  /** New connections that backends got while they were shifted, by the side of the backend. */
  readonly shifted: Record<ShiftSide, number> = { to: 0, others: 0 }
  /** From accept to the ACK. */
  readonly latency = new LatencyHistogram()
  readonly #rejections = new Map<RejectionReason, number>()
  readonly #handedBack = new Map<`${HandBackKind}/${HandBackResult}`, number>()
  readonly #notTaken = new Map<`${Exclude<HandBackResult, 'taken'>}/${NotTakenReason}`, number>()
  readonly #resumed = new Map<HandBackKind, number>()
  readonly #failures = new Map<FailureCode, number>()
  readonly #fallbacks = new Map<`${FallbackAction}/${FallbackReason}`, number>()
  readonly #tokens = new Map<TokenReason, number>()
  readonly #published = new Map<string, number>()

  get rejections(): ReadonlyMap<RejectionReason, number> {
    return this.#rejections
  }

  /** By `action/reason`. */
  get fallbacks(): ReadonlyMap<`${FallbackAction}/${FallbackReason}`, number> {
    return this.#fallbacks
  }

  rejected(reason: RejectionReason): void {
    this.outcomes.rejected += 1
    add(this.#rejections, reason)
  }

  failed(code: FailureCode, times: number): void {
    add(this.#failures, code, times)
  }

  fellBack(action: FallbackAction, reason: FallbackReason): void {
    add(this.#fallbacks, `${action}/${reason}`)
  }

  handedBack(kind: HandBackKind, times: number): void {
    add(this.#handedBack, `${kind}/taken`, times)
  }

  notTaken(kind: HandBackKind, reason: NotTakenReason, times: number): void {
    const result = reason === 'ProtocolViolation' ? 'refused' : 'given_back'
    add(this.#handedBack, `${kind}/${result}`, times)
    add(this.#notTaken, `${result}/${reason}`, times)
  }

  resumed(kind: HandBackKind): void {
    add(this.#resumed, kind)
  }

  /** Hand-backs that were taken: each is an arrival, as an accept is. */
  get taken(): number {
    return this.#sumOf('taken')
  }

  get givenBack(): number {
    return this.#sumOf('given_back')
  }

  get handBacksRefused(): number {
    return this.#sumOf('refused')
  }

  /** By `result/reason`. */
  get reasonsNotTaken(): ReadonlyMap<string, number> {
    return this.#notTaken
  }

  refusedBy(reason: string): void {
    if (isTokenReason(reason)) add(this.#tokens, reason)
  }

  /** Adds the counts by which each connection has exactly one outcome (M9), in the order of `SERVICE_NUMBERS` (`ipc/copies.ts`). */
  account(numbers: Numbers, routed: number): void {
    for (const outcome of OUTCOMES) numbers.push(this.outcomes[outcome])
    for (const key of TAKEN) numbers.push(this.#handedBack.get(key) ?? 0)
    numbers.push(this.movedIn + routed)
    numbers.push(this.movedOut + this.rerouted)
  }

  publish(service: string, metrics: Metrics, relayed: { in: number; out: number }): void {
    for (const outcome of OUTCOMES) {
      this.#since(`outcome/${outcome}`, this.outcomes[outcome], (by) =>
        metrics.connections.inc({ service, outcome }, by),
      )
    }
    for (const [reason, count] of this.#rejections) {
      this.#since(`rejection/${reason}`, count, (by) => metrics.rejections.inc({ service, reason }, by))
    }
    for (const [reason, count] of this.#failures) {
      this.#since(`failure/${reason}`, count, (by) => metrics.handoffFailures.inc({ service, reason }, by))
    }
    for (const [reason, count] of this.#tokens) {
      this.#since(`token/${reason}`, count, (by) => metrics.tokensRejected.inc({ service, reason }, by))
    }
    for (const [step, count] of this.#fallbacks) {
      const [action, reason] = step.split('/') as [FallbackAction, FallbackReason]
      this.#since(`fallback/${step}`, count, (by) => metrics.fallbacks.inc({ service, action, reason }, by))
    }
    for (const [key, count] of this.#handedBack) {
      const [kind, result] = key.split('/') as [HandBackKind, HandBackResult]
      this.#since(`handback/${key}`, count, (by) =>
        metrics.connectionsHandedBack.inc({ service, kind, result }, by),
      )
    }
    for (const [kind, count] of this.#resumed) {
      this.#since(`resumed/${kind}`, count, (by) => metrics.connectionsResumed.inc({ service, kind }, by))
    }
    for (const side of SHIFT_SIDES) {
      this.#since(`shift/${side}`, this.shifted[side], (by) =>
        metrics.shiftConnections.inc({ service, side }, by),
      )
    }
    for (const direction of RELAY_DIRECTIONS) {
      this.#since(`relay/${direction}`, relayed[direction], (by) =>
        metrics.relayBytes.inc({ service, direction }, by),
      )
    }
  }

  #sumOf(result: HandBackResult): number {
    return HANDBACK_KINDS.reduce((sum, kind) => sum + (this.#handedBack.get(`${kind}/${result}`) ?? 0), 0)
  }

  #since(key: string, count: number, increase: (by: number) => void): void {
    const before = this.#published.get(key) ?? 0
    if (count > before) increase(count - before)
    this.#published.set(key, count)
  }
}

function add<K>(counts: Map<K, number>, key: K, by = 1): void {
  counts.set(key, (counts.get(key) ?? 0) + by)
}

function isTokenReason(reason: string): reason is TokenReason {
  return (TOKEN_REASONS as readonly string[]).includes(reason)
}
