/** The result of a scale. */
export interface ScaleResult {
  readonly service: string
  /** Instances before, and now. */
  readonly before: number
  readonly instances: number
  /** Number in the configuration. */
  readonly configured: number
  /** Such as `web.3`. */
  readonly started: readonly string[]
  readonly stopped: readonly string[]
}

/** The master's answer. */
export interface ScaleReply {
  readonly success: boolean
  readonly log: readonly string[]
  readonly result?: ScaleResult
}
