// What follows from a checked configuration, without the code that checks it.
import type { Config, ServiceConfig } from './config.ts'

/** The settings that decide which processes may belong to a service. */
export type Membership = Pick<ServiceConfig, 'command' | 'external'>

/** Whether only processes started by Baton may be backends of the service. */
export function isClosed({ command, external }: Membership): boolean {
  return command !== null && !external
}

/** How long connections of a service may take to finish, in milliseconds. */
export function drainDeadlineOf(
  { drainDeadline: own }: Pick<ServiceConfig, 'drainDeadline'>,
  { drainDeadline }: Pick<Config, 'drainDeadline'>,
): number {
  return own ?? drainDeadline
}

/** How much of the output of a service is kept; undefined if it is not, or if the service does not exist. Sizes are in bytes. */
export function keptOutputOf(
  { services, keepOutput }: Pick<Config, 'services' | 'keepOutput'>,
  service: string,
): Exclude<Config['keepOutput'], 'off'> | undefined {
  const config = services.get(service)
  const kept = config === undefined ? 'off' : (config.keepOutput ?? keepOutput)
  return kept === 'off' ? undefined : kept
}

/** The longest of all services. */
export function longestDrainDeadline(config: Pick<Config, 'services' | 'drainDeadline'>): number {
  return Math.max(...[...config.services.values()].map((service) => drainDeadlineOf(service, config)))
}
