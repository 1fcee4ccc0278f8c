import { statSync } from 'node:fs'

/**
 * Header field by which a command names the broker that it means: that of this runtime folder. The configurations of two brokers may have
 * the same `admin.listen`, and then one of them listens there for both.
 */
export const BROKER_IDENTITY = 'baton-broker'

/** Identifies a broker by its runtime folder, whichever path leads there; undefined if there is no such folder. */
export function identityOfBroker(runtimeDir: string): string | undefined {
  try {
    const { dev, ino } = statSync(runtimeDir, { bigint: true })
    return `${dev}:${ino}`
  } catch {
    return undefined
  }
}
