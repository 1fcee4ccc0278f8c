// Conclusions from a checked configuration, for code that does not check one.

/** The settings that decide which processes may belong to a service. */
export interface Membership {
  readonly command: readonly string[] | null
  readonly external: boolean
}

/** Whether only processes started by Baton may be backends of the service. */
export function isClosed({ command, external }: Membership): boolean {
  return command !== null && !external
}

interface OwnDeadline {
  readonly drainDeadline: number | null
}

/** How long connections of a service may take to finish, in milliseconds. */
export function drainDeadlineOf(
  { drainDeadline: own }: OwnDeadline,
  { drainDeadline }: { readonly drainDeadline: number },
): number {
  return own ?? drainDeadline
}

/** The longest of all services. */
export function longestDrainDeadline(config: {
  readonly services: ReadonlyMap<string, OwnDeadline>
  readonly drainDeadline: number
}): number {
  return Math.max(...[...config.services.values()].map((service) => drainDeadlineOf(service, config)))
}

/** How much of the output of a service is kept; undefined if it is not, or if the service does not exist. */
export function keptOutputOf<T extends object>(
  {
    services,
    keepOutput,
  }: {
    readonly services: ReadonlyMap<string, { readonly keepOutput: T | 'off' | null }>
    readonly keepOutput: T | 'off'
  },
  service: string,
): T | undefined {
  const config = services.get(service)
  const kept = config === undefined ? 'off' : (config.keepOutput ?? keepOutput)
  return kept === 'off' ? undefined : kept
}
