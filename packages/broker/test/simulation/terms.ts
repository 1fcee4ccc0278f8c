import { parseConfig, type ServiceConfig } from '../../src/config/config.ts'
import type { Random } from './random.ts'

/** Parameters of a schedule. */
export interface Terms {
  readonly service: ServiceConfig
  readonly protocol: 'http' | 'tcp'
  readonly laneRoom: number
  readonly controlRoom: number
  /** Probability that a process is stopped at one of its system calls. */
  readonly preemption: number
  readonly clients: number
  /** Bytes that a client sends at most: each is a request. */
  readonly bytes: number
  readonly kills: number
  readonly brokerKills: number
  readonly reloads: number
  readonly liars: number
  /** Weight of freezing, draining, refusing and similar faults. */
  readonly trouble: number
}

const services = new Map<string, ServiceConfig>()

/** Cached: parsing costs more than a schedule, and few configurations differ. */
function serviceOf(options: Record<string, unknown>): ServiceConfig {
  const key = JSON.stringify(options)
  let service = services.get(key)
  if (service === undefined) {
    const config = parseConfig({
      listeners: [{ name: 'web', listen: '127.0.0.1:0', service: 'web' }],
      services: { web: options },
    })
    service = config.services.get('web') as ServiceConfig
    services.set(key, service)
  }
  return service
}

export function drawTerms(random: Random): Terms {
  return {
    service: serviceOf({
      balance: random.pick(['least-connections', 'round-robin', 'p2c', 'source-hash']),
      handoff: random.chance(0.1) ? 'off' : 'auto',
      handBack: random.chance(0.1) ? 'off' : 'drain',
      handBackWindow: random.pick([1, 3, 64]),
      maxStuck: random.pick([1, 2, 1024]),
      maxHeld: random.pick([4, 10_000, 10_000]),
      failureLimit: { failures: random.pick([2, 8]), window: '10s', pause: '2s' },
    }),
    protocol: random.pick(['http', 'tcp']),
    laneRoom: random.pick([1, 3, 278]),
    controlRoom: random.pick([150, 600, 200_000]),
    preemption: random.pick([0, 0.02, 0.1]),
    clients: random.between(4, 24),
    bytes: random.between(1, 4),
    kills: random.pick([0, 1, 2]),
    reloads: random.chance(0.3) ? 1 : 0,
    brokerKills: random.chance(0.25) ? 1 : 0,
    liars: random.chance(0.2) ? 1 : 0,
    trouble: random.pick([0.3, 1]),
  }
}
