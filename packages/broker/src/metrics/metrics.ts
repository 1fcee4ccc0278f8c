import { collectDefaultMetrics, Registry } from 'prom-client'

import { eventLoopLag, NEVER_MS } from './event-loop-lag.ts'
import {
  BACKEND_STATES,
  FAILURE_REASONS,
  FALLBACK_ACTIONS,
  FALLBACK_REASONS,
  HANDBACK_KINDS,
  HANDBACK_RESULTS,
  LOST,
  OUTCOMES,
  REJECTION_REASONS,
  RELAY_DIRECTIONS,
  SHIFT_SIDES,
  TOKEN_REASONS,
  UNROUTED_REASONS,
  type BackendState,
  type FailureReason,
  type FallbackAction,
  type FallbackReason,
  type HandBackKind,
  type HandBackResult,
  type Outcome,
  type RejectionReason,
  type RelayDirection,
  type ShiftSide,
  type TokenReason,
  type UnroutedReason,
} from './labels.ts'
import { droppedLines } from './dropped-lines.ts'
import { type MetricSnapshot, textOf } from './snapshot.ts'
import { counter, gauge, histogram } from './typed.ts'

/** Seconds. An immediate handoff takes well under a millisecond; one that waits for a backend takes up to `holdTimeout`. */
const HANDOFF_BUCKETS = [
  0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
]

/** Gauges whose names end in `_total`, which the exposition format reserves for counters; promtool rejects them. */
const MISNAMED = [
  'nodejs_active_handles_total',
  'nodejs_active_requests_total',
  'nodejs_active_resources_total',
]

/**
 * Everything in `/metrics`, in its own metrics registry. Series whose labels are known in advance start at 0, because rate() misses
 * the first event of a series that appears with it.
 */
export class Metrics {
  readonly #registry = new Registry()
  /** Process metrics, such as memory, which are not summed across workers. */
  readonly #process = new Registry()

  readonly connectionsAccepted = counter<{ listener: string }>(this.#registry, {
    name: 'baton_connections_accepted_total',
    help: 'Client connections accepted.',
    labels: ['listener'],
  })

  readonly connectionsPeeked = gauge<{ listener: string }>(this.#registry, {
    name: 'baton_connections_peeked',
    help: 'Client connections whose first bytes are being waited for, to choose a service.',
    labels: ['listener'],
  })

  readonly connectionsUnrouted = counter<{ listener: string; reason: UnroutedReason | typeof LOST }>(
    this.#registry,
    {
      name: 'baton_connections_unrouted_total',
      help: 'Client connections that ended before a service was chosen, by reason.',
      labels: ['listener', 'reason'],
    },
  )

  readonly connections = counter<{ service: string; outcome: Outcome | typeof LOST }>(this.#registry, {
    name: 'baton_connections_total',
    help: 'Client connections by outcome.',
    labels: ['service', 'outcome'],
  })

  readonly rejections = counter<{ service: string; reason: RejectionReason }>(this.#registry, {
    name: 'baton_rejections_total',
    help: 'Client connections rejected, by reason.',
    labels: ['service', 'reason'],
  })

  readonly connectionsHeld = gauge<{ service: string }>(this.#registry, {
    name: 'baton_connections_held',
    help: 'Client connections held, unread, until a backend is available.',
    labels: ['service'],
  })

  readonly handoffsInFlight = gauge<{ service: string }>(this.#registry, {
    name: 'baton_handoffs_in_flight',
    help: 'Client connections offered to a backend and not yet settled.',
    labels: ['service'],
  })

  readonly handoffFailures = counter<{ service: string; reason: FailureReason }>(this.#registry, {
    name: 'baton_handoff_failures_total',
    help: 'Handoff attempts that failed, by reason. One connection can fail more than once.',
    labels: ['service', 'reason'],
  })

  readonly fallbacks = counter<{ service: string; action: FallbackAction; reason: FallbackReason }>(
    this.#registry,
    {
      name: 'baton_fallbacks_total',
      help: 'Fallbacks, by action and reason.',
      labels: ['service', 'action', 'reason'],
    },
  )

  readonly handoffDuration = histogram<{ service: string }>(this.#registry, {
    name: 'baton_handoff_duration_seconds',
    help: "Time from accept to the backend's acknowledgement.",
    labels: ['service'],
    buckets: HANDOFF_BUCKETS,
  })

  readonly connectionsHandedBack = counter<{ service: string; kind: HandBackKind; result: HandBackResult }>(
    this.#registry,
    {
      name: 'baton_connections_handed_back_total',
      help: 'Live connections that backends handed back, by what the broker did with them.',
      labels: ['service', 'kind', 'result'],
    },
  )

  readonly connectionsParked = gauge<{ service: string }>(this.#registry, {
    name: 'baton_connections_parked',
    help: 'Idle connections that were handed back and wait, unread, for their next request.',
    labels: ['service'],
  })

  readonly connectionsResumed = counter<{ service: string; kind: HandBackKind }>(this.#registry, {
    name: 'baton_connections_resumed_total',
    help: 'Connections that were handed back and that a backend has adopted again.',
    labels: ['service', 'kind'],
  })

  readonly handBackPause = histogram<{ service: string; kind: HandBackKind }>(this.#registry, {
    name: 'baton_handback_pause_seconds',
    help: 'Time for which a connection that was handed back had no backend.',
    labels: ['service', 'kind'],
    buckets: HANDOFF_BUCKETS,
  })

  readonly shiftConnections = counter<{ service: string; side: ShiftSide }>(this.#registry, {
    name: 'baton_shift_connections_total',
    help: 'Client connections that backends got while a shift was in force, by the side on which the backend is.',
    labels: ['service', 'side'],
  })

  readonly relayConnections = gauge<{ service: string }>(this.#registry, {
    name: 'baton_relay_connections',
    help: 'Client connections being relayed.',
    labels: ['service'],
  })

  readonly relayBytes = counter<{ service: string; direction: RelayDirection }>(this.#registry, {
    name: 'baton_relay_bytes_total',
    help: 'Bytes relayed: in is from clients, out is to clients. Handed-off connections add nothing.',
    labels: ['service', 'direction'],
  })

  readonly servicePaused = gauge<{ service: string }>(this.#registry, {
    name: 'baton_service_paused',
    help: 'Whether an operator has paused the service: 1, else 0.',
    labels: ['service'],
  })

  readonly serviceMaintenance = gauge<{ service: string }>(this.#registry, {
    name: 'baton_service_maintenance',
    help: 'Whether the service is in maintenance: 1, else 0.',
    labels: ['service'],
  })

  readonly backends = gauge<{ service: string; state: BackendState }>(this.#registry, {
    name: 'baton_backends',
    help: 'Registered backends by state.',
    labels: ['service', 'state'],
  })

  readonly backendConnections = gauge<{ service: string; backend: string }>(this.#registry, {
    name: 'baton_backend_connections',
    help: 'Load of a backend: connections it has acknowledged and not closed, and those in flight to it.',
    labels: ['service', 'backend'],
  })

  readonly tokensRejected = counter<{ service: string; reason: TokenReason }>(this.#registry, {
    name: 'baton_tokens_rejected_total',
    help: 'One-time tokens refused by a backend, by reason.',
    labels: ['service', 'reason'],
  })

  constructor(options: {
    version: string
    listeners: Iterable<string>
    services: Iterable<string>
    /** Log lines that this process has dropped so far. */
    droppedLines?: (() => number) | undefined
  }) {
    droppedLines(this.#registry, options.droppedLines)
    collectDefaultMetrics({ register: this.#process, eventLoopMonitoringPrecision: NEVER_MS })
    eventLoopLag(this.#process)
    for (const name of MISNAMED) this.#process.removeSingleMetric(name)

    gauge<{ version: string }>(this.#process, {
      name: 'baton_build_info',
      help: 'Always 1. The label is the version.',
      labels: ['version'],
    }).set({ version: options.version }, 1)

    for (const listener of options.listeners) this.addListener(listener)
    for (const service of options.services) this.addService(service)
  }

  addListener(listener: string): void {
    this.connectionsAccepted.inc({ listener }, 0)
    this.connectionsPeeked.set({ listener }, 0)
    for (const reason of [...UNROUTED_REASONS, LOST] as const)
      this.connectionsUnrouted.inc({ listener, reason }, 0)
  }

  addService(service: string): void {
    this.#initialise(service)
  }

  /** The Content-Type that goes with `text()`. */
  get contentType(): string {
    return this.#registry.contentType
  }

  /** Counters of this process, to be added to those of others. */
  snapshot(): Promise<MetricSnapshot> {
    return this.#registry.getMetricsAsJSON()
  }

  /** The text exposition format, version 0.0.4, including the counters of the broker's other processes. */
  async text(others: readonly MetricSnapshot[] = []): Promise<string> {
    const own = await this.#process.metrics()
    const counted =
      others.length === 0 ? await this.#registry.metrics() : await textOf([await this.snapshot(), ...others])
    return `${own}\n${counted}`
  }

  /** Removes the series of one backend, labelled by its slot (`web-1`). */
  removeBackend(service: string, slot: string): void {
    this.backendConnections.remove({ service, backend: slot })
  }

  #initialise(service: string): void {
    for (const outcome of [...OUTCOMES, LOST] as const) this.connections.inc({ service, outcome }, 0)
    for (const reason of REJECTION_REASONS) this.rejections.inc({ service, reason }, 0)
    for (const reason of FAILURE_REASONS) this.handoffFailures.inc({ service, reason }, 0)
    for (const reason of TOKEN_REASONS) this.tokensRejected.inc({ service, reason }, 0)
    for (const direction of RELAY_DIRECTIONS) this.relayBytes.inc({ service, direction }, 0)
    for (const side of SHIFT_SIDES) this.shiftConnections.inc({ service, side }, 0)
    for (const state of BACKEND_STATES) this.backends.set({ service, state }, 0)
    for (const action of FALLBACK_ACTIONS) {
      for (const reason of FALLBACK_REASONS) this.fallbacks.inc({ service, action, reason }, 0)
    }
    for (const kind of HANDBACK_KINDS) {
      this.connectionsResumed.inc({ service, kind }, 0)
      this.handBackPause.zero({ service, kind })
      for (const result of HANDBACK_RESULTS) this.connectionsHandedBack.inc({ service, kind, result }, 0)
    }
    this.servicePaused.set({ service }, 0)
    this.serviceMaintenance.set({ service }, 0)
    this.connectionsHeld.set({ service }, 0)
    this.connectionsParked.set({ service }, 0)
    this.handoffsInFlight.set({ service }, 0)
    this.relayConnections.set({ service }, 0)
    this.handoffDuration.zero({ service })
  }
}
