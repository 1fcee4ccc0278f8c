/** What the first bytes of a connection have decided, beside its service. */
export interface Routed {
  /** Only backends of this version may take it: its route says so. */
  readonly version?: string | undefined
}
