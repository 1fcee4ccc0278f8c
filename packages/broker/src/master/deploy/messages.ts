export interface CanaryRequest {
  /** In hundredths of a percent: 1 to 10000. */
  readonly share: number
  /** In ms. */
  readonly time: number
}

export interface DeployCommand {
  readonly service: string
  /** How many instances to replace at a time. */
  readonly atOnce: number
  /** Aborts the current deploy, or reverts what a failed one has left. */
  readonly abort: boolean
  /** Name of the environment; undefined: that of the configuration. */
  readonly environment?: string | undefined
  /** Tries the new version with a share of the new connections first. */
  readonly canary?: CanaryRequest | undefined
  /** The requester, for logs and events. */
  readonly by: string
  readonly progress: (line: string) => void
}

/** One progress line of a deploy. */
export interface DeployProgress {
  readonly step: 'started' | 'ready' | 'canary' | 'draining' | 'stopped' | 'failed' | 'aborted' | 'done'
  /** Such as `web.1`, or the service's name for the whole service. */
  readonly instance: string
  readonly text: string
}

export type DeployResult =
  | { readonly success: true; readonly replaced: number }
  | {
      readonly success: false
      readonly reason: string
      /** Last lines of the process that failed; empty if none did. */
      readonly output: readonly string[]
      /** The operator has aborted the deploy. */
      readonly aborted: boolean
      /** Every instance runs the old version again. False if some still run the new one. */
      readonly returned: boolean
      /** Every instance runs the new version, but other backends of the service are still registered. */
      readonly complete?: boolean
    }
