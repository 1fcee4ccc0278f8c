/** Interval between two points, in ms. */
export const HISTORY_INTERVAL_MS = 5000

/** Points that are kept of each service: the last 15 minutes. */
export const HISTORY_POINTS = 180

/** A service over one interval. */
export interface HistoryPoint {
  /** Its end, in ms since the Unix epoch. */
  readonly at: number
  /** Per second. */
  readonly handoffs: number
  /** From accept to ACK, in ms; null if nothing was handed off. */
  readonly p50: number | null
  readonly p90: number | null
  readonly p99: number | null
  /** At its end. */
  readonly held: number
  /** Per second. */
  readonly fallbacks: number
  readonly rejects: number
}

/** By service, oldest first. */
export type History = Readonly<Record<string, readonly HistoryPoint[]>>

/** One point of each service. */
export type HistoryPoints = Readonly<Record<string, HistoryPoint>>

/** Response of `GET /api/v1/history`. */
export interface HistoryAnswer {
  readonly intervalMs: number
  readonly services: History
}

/** The history with one more point of each service. Those of which there is none are gone. */
export function extended(history: History, points: HistoryPoints): History {
  return Object.fromEntries(
    Object.entries(points).map(([service, point]) => {
      const before = Object.hasOwn(history, service) ? (history[service] ?? []) : []
      return [service, [...before, point].slice(-HISTORY_POINTS)]
    }),
  )
}
