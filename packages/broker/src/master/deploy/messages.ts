export interface DeployCommand {
  readonly service: string
  /** How many instances at a time. */
  readonly atOnce: number
  /** Ends the one that goes on, or goes back to the old version. */
  readonly abort: boolean
  /** Who asks. */
  readonly by: string
  readonly progress: (line: string) => void
}

/** What a deploy tells while it goes on, one line each. */
export interface DeployProgress {
  readonly step: 'started' | 'ready' | 'draining' | 'stopped' | 'failed' | 'aborted' | 'done'
  /** Such as `web.1`; the service's name where all of it is meant. */
  readonly instance: string
  readonly text: string
}

export type DeployResult =
  | { readonly success: true; readonly replaced: number }
  | {
      readonly success: false
      readonly reason: string
      /** Last lines of the process that failed; empty when none did. */
      readonly output: readonly string[]
      /** The operator asked for the old version back. */
      readonly aborted: boolean
      /** Everything is the old version again. False when instances of the new one are left. */
      readonly returned: boolean
      /** Every instance is the new version, and yet other backends of the service are registered. */
      readonly complete?: boolean
    }
