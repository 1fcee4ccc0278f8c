import type { ListenerStatus } from '../../api/status.ts'
import { measureCell, readyCell, stateCell } from '../output/cells.ts'
import type { Paint } from '../output/colours.ts'
import { printable } from '../../log/printable.ts'
import { table, type Cell } from '../output/table.ts'
import type { Rates, Snapshot } from './snapshot.ts'

/** Maximum number of reasons listed, the most frequent first. */
const MAX_REASONS = 8

/** The content of the screen: a fixed head, and a body that can be longer than the screen. */
export interface Frame {
  readonly head: readonly string[]
  readonly body: readonly string[]
}

export interface FrameOptions {
  readonly paint: Paint
  /** Handoffs per second of all services, the latest last; if empty, they are not shown. */
  readonly history: readonly number[]
  /** Why the snapshot is not the latest: the broker cannot be reached. */
  readonly lost?: string | undefined
}

export function frameOf(snapshot: Snapshot, { paint, history, lost }: FrameOptions): Frame {
  return {
    head: [
      headline(snapshot, paint),
      ...(lost === undefined ? [] : [paint('red', printable(`retrying: ${lost}`))]),
      ...(history.length === 0
        ? []
        : [`handoffs/s ${(history.at(-1) ?? 0).toFixed(1)}  ${paint('cyan', sparkline(history))}`]),
    ],
    body: ['', ...services(snapshot, paint), ...reasons(snapshot, paint), '', ...backends(snapshot, paint)],
  }
}

/** The sum over all services; 0 while no rate is known. */
export function handoffsPerSecond({ rates }: Snapshot): number {
  return [...rates.values()].reduce((total, { handoffs }) => total + (handoffs ?? 0), 0)
}

function headline({ at, source, status: { broker, listeners } }: Snapshot, paint: Paint): string {
  const now = Number.isNaN(at) ? Date.now() : at
  const closed = listeners.filter(({ accepting }) => !accepting)
  return [
    paint('bold', `baton ${printable(broker.version)}`),
    paint(broker.state === 'running' ? 'green' : 'yellow', broker.state),
    `up ${elapsed(now - Date.parse(broker.startedAt))}`,
    broker.master === null ? `pid ${broker.pid}` : `master ${broker.master}, worker ${broker.pid}`,
    new Date(now).toISOString().slice(11, 19),
    ...(source === 'polling' ? [paint('yellow', 'no events: polling once a second')] : []),
    ...(closed.length > 0 ? [paint('yellow', `not accepting: ${closed.map(nameOf).join(', ')}`)] : []),
  ].join('  ')
}

const UNKNOWN: Rates = {
  accepted: null,
  handoffs: null,
  handBacks: null,
  fallbacks: null,
  rejects: null,
  latencyMs: null,
  reasons: [],
}

function services({ status, rates }: Snapshot, paint: Paint): string[] {
  return table(
    [
      // The most important columns come first, so that a narrow terminal shows them.
      [
        'SERVICE',
        'READY',
        'ACCEPT/S',
        'HANDOFF/S',
        'REJECT/S',
        'FALLBACK/S',
        'HELD',
        'P50 MS',
        'P90 MS',
        'P99 MS',
        'PARKED',
        'BACK/S',
        'IN FLIGHT',
        'STUCK',
        'RELAYING',
      ],
      ...status.services.map((service): Cell[] => {
        const { accepted, handoffs, handBacks, fallbacks, rejects, latencyMs } =
          rates.get(service.name) ?? UNKNOWN
        return [
          service.name,
          readyCell(service),
          measureCell(accepted, 1),
          measureCell(handoffs, 1),
          { ...measureCell(rejects, 1), style: (rejects ?? 0) > 0 ? 'red' : undefined },
          { ...measureCell(fallbacks, 1), style: (fallbacks ?? 0) > 0 ? 'yellow' : undefined },
          { text: service.held, style: service.held > 0 ? 'yellow' : undefined },
          measureCell(latencyMs?.p50 ?? null, 2),
          measureCell(latencyMs?.p90 ?? null, 2),
          measureCell(latencyMs?.p99 ?? null, 2),
          service.parked,
          measureCell(handBacks, 1),
          service.inFlight,
          { text: service.stuck, style: service.stuck > 0 ? 'red' : undefined },
          service.relaying,
        ]
      }),
    ],
    paint,
  )
}

function reasons({ rates }: Snapshot, paint: Paint): string[] {
  const all = [...rates].flatMap(([service, { reasons: own }]) =>
    own.map((reason) => ({ service, ...reason })),
  )
  if (all.length === 0) return []
  const rows = all
    .toSorted((a, b) => b.perSecond - a.perSecond || b.total - a.total)
    .slice(0, MAX_REASONS)
    .map(({ service, what, perSecond, total }): Cell[] => [
      service,
      {
        text: what,
        style: perSecond === 0 ? undefined : /^(reject|refused)\//.test(what) ? 'red' : 'yellow',
      },
      measureCell(perSecond, 1),
      total,
    ])
  return ['', ...table([['SERVICE', 'FALLBACK/REASON', 'PER S', 'TOTAL'], ...rows], paint)]
}

function backends({ status, adopted, at }: Snapshot, paint: Paint): string[] {
  const all = status.services.flatMap((service) => service.backends.map((backend) => ({ service, backend })))
  if (all.length === 0) return [paint('yellow', 'no backend is registered')]
  return table(
    [
      ['BACKEND', 'STATE', 'LOAD', 'ADOPT/S', 'BACK', 'LAG MS', 'WEIGHT', 'PID', 'UP', 'VERSION'],
      ...all.map(({ service, backend }): Cell[] => [
        `${service.name}/${backend.slot}`,
        stateCell(backend),
        backend.load,
        measureCell(adopted.get(backend.id) ?? null, 1),
        backend.handedBack,
        measureCell(backend.lagMs, 1),
        backend.weight,
        backend.pid,
        { text: elapsed(at - Date.parse(backend.registeredAt)), right: true },
        backend.version ?? '-',
      ]),
    ],
    paint,
  )
}

function nameOf({ name }: ListenerStatus): string {
  return name
}

/** The two largest units: `42s`, `3m 5s`, `2h 3m`, `5d 1h`. */
export function elapsed(ms: number): string {
  if (!(ms >= 0)) return '-'
  const seconds = Math.floor(ms / 1000)
  const parts: [amount: number, unit: string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ]
  const first = parts.findIndex(([amount]) => amount > 0)
  if (first === -1) return '0s'
  return parts
    .slice(first, first + 2)
    .map(([amount, unit]) => `${amount}${unit}`)
    .join(' ')
}

/** A line of `key=value` for each service, for programs and logs; `-` if a value is unknown. */
export function linesOf({ at, status, rates }: Snapshot): string[] {
  const time = new Date(Number.isNaN(at) ? Date.now() : at).toISOString()
  return status.services.map((service) => {
    const { accepted, handoffs, handBacks, fallbacks, rejects, latencyMs } =
      rates.get(service.name) ?? UNKNOWN
    const fields: [key: string, value: string | number][] = [
      ['time', time],
      ['service', service.name],
      ['ready', service.backends.filter(({ state }) => state === 'ready').length],
      ['backends', service.backends.length],
      ['accepted_per_second', measured(accepted, 1)],
      ['handoffs_per_second', measured(handoffs, 1)],
      ['p50_ms', measured(latencyMs?.p50 ?? null, 3)],
      ['p90_ms', measured(latencyMs?.p90 ?? null, 3)],
      ['p99_ms', measured(latencyMs?.p99 ?? null, 3)],
      ['held', service.held],
      ['in_flight', service.inFlight],
      ['stuck', service.stuck],
      ['relaying', service.relaying],
      ['fallbacks_per_second', measured(fallbacks, 1)],
      ['rejects_per_second', measured(rejects, 1)],
      ['parked', service.parked],
      ['hand_backs_per_second', measured(handBacks, 1)],
      ['paused', ordered(service.paused)],
      ['maintenance', ordered(service.maintenance)],
    ]
    return fields.map(([key, value]) => `${key}=${value}`).join(' ')
  })
}

/** @param state undefined: the broker is older and does not say */
function ordered(state: object | null | undefined): string | number {
  return state === undefined ? '-' : Number(state !== null)
}

function measured(value: number | null, digits: number): string {
  return value === null ? '-' : value.toFixed(digits)
}

const BARS = '▁▂▃▄▅▆▇█'

/** Draws values as bars, scaled to the largest; all zeros is a flat line. */
export function sparkline(values: readonly number[]): string {
  const greatest = Math.max(...values, 0)
  return values
    .map((value) => BARS[greatest === 0 ? 0 : Math.round((value / greatest) * (BARS.length - 1))])
    .join('')
}
