import type { ServiceConfig } from '../../config/config.ts'
import { createBalancer } from './balancer.ts'
import type { Balancer } from './candidate.ts'

/**
 * One balancer for each set of candidates that connections of a service are divided among, such as the backends of one version. A balancer
 * forgets candidates that it is not shown, so one for all sets would begin again with each connection of another set.
 */
export class Balancers {
  readonly #balance: ServiceConfig['balance']
  readonly #random: () => number
  readonly #balancers = new Map<string, Balancer>()

  /** @param random uniform in [0, 1) */
  constructor(balance: ServiceConfig['balance'], random: () => number) {
    this.#balance = balance
    this.#random = random
  }

  /** @param set its name; '' for all candidates */
  of(set: string): Balancer {
    const known = this.#balancers.get(set)
    if (known !== undefined) return known
    const balancer = createBalancer(this.#balance, this.#random)
    this.#balancers.set(set, balancer)
    return balancer
  }
}
