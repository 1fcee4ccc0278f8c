import type { Status } from '../../api/status.ts'

export interface Readiness {
  readonly ready: boolean
  /** Empty when ready. */
  readonly reasons: readonly string[]
}

/** Ready: not draining, every listener accepts, and every service has a backend that can take a connection now. */
export function readiness(status: Status): Readiness {
  const reasons = [
    ...(status.broker.state === 'running' ? [] : ['the broker is draining']),
    ...status.listeners
      .filter(({ accepting }) => !accepting)
      .map(({ name }) => `listener ${name} does not accept`),
    ...status.services
      .filter(({ backends }) => !backends.some(({ state }) => state === 'ready'))
      .map(({ name }) => `service ${name} has no ready backend`),
  ]
  return { ready: reasons.length === 0, reasons }
}
