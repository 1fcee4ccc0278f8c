/** A share of the new connections of one service goes to one version, and the rest to its other versions. */
export interface Shift {
  readonly to: string
  /** In hundredths of a percent: 0 to `WHOLE`. */
  readonly share: number
  /** A deploy tries this version, and ends the shift. */
  readonly canary?: boolean | undefined
}

/** By service. */
export type Shifts = Readonly<Record<string, Shift>>

/** All connections. */
export const WHOLE = 10_000

/** The admin API's form of a shift. */
export interface ShiftStatus {
  readonly to: string
  /** Percent of the new connections. */
  readonly share: number
  readonly canary: boolean
}
