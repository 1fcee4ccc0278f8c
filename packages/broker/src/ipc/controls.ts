/**
 * Orders of operators about services, beyond the configuration: they apply until they are taken back. Every worker has them, and so has
 * the master, which gives them to the next worker and carries them over a reload; if the master is killed, its worker keeps them for the next one.
 */
export type Controls = readonly (readonly [service: string, control: Control])[]

export interface Control {
  readonly paused: Pause | null
  readonly maintenance: MaintenancePage | null
}

export interface Pause {
  /** ISO 8601. */
  readonly since: string
  /** CLOCK_MONOTONIC in ms; null: until it is resumed. */
  readonly until: number | null
}

export interface MaintenancePage {
  /** ISO 8601. */
  readonly since: string
  /** Content-Type. */
  readonly type: string
  /** The body, in base64. */
  readonly page: string
}

export const NO_CONTROL: Control = { paused: null, maintenance: null }

export function isControlled({ paused, maintenance }: Control): boolean {
  return paused !== null || maintenance !== null
}
