import type { ServiceConfig } from '../../config/index.ts'
import { BrokerError } from '../../errors.ts'
import {
  define,
  type Fleet,
  type FleetClock,
  fleetClock,
  type Generation,
  type ManagedService,
} from '../fleet/index.ts'
import { Deploy, type DeployPlan } from './deploy.ts'
import type { DeployProgress, DeployResult } from './progress.ts'

export interface DeployOptions {
  /** From the present configuration. */
  readonly service: ServiceConfig
  /** Folder of the configuration file. */
  readonly base: string
  /** How many instances at a time, at least 1. Default: 1. */
  readonly atOnce?: number
  readonly startLimit?: number
  readonly clock?: FleetClock
  readonly progress?: (progress: DeployProgress) => void
}

export interface RunningDeploy {
  /** Never rejects. */
  readonly done: Promise<DeployResult>
  /** Returns to the old version; `done` tells how that went. */
  abort(): void
}

/**
 * Replaces every instance of a service by what the configuration says now. The command, the environment and the working
 * folder may be the same as before: then the same program is started anew.
 *
 * @throws {BrokerError} BATON_ERR_NOT_MANAGED, BATON_ERR_DEPLOY_RUNNING, BATON_ERR_BACKEND_FOLDER
 */
export function startDeploy(fleet: Fleet, options: DeployOptions): RunningDeploy {
  const service = managed(fleet, options.service.name)
  const definition = define(options.service, options.base)
  if (definition === undefined) throw new BrokerError('BATON_ERR_NOT_MANAGED', options.service.name)
  return roll(fleet, service, options, service.numbers, () => service.nextGeneration(definition))
}

/**
 * Gives the places that a failed deploy has left with the new version back to the old one. A deploy without steps when
 * there are none.
 *
 * @throws {BrokerError} BATON_ERR_NOT_MANAGED, BATON_ERR_DEPLOY_RUNNING
 */
export function startReturn(fleet: Fleet, options: DeployOptions): RunningDeploy {
  const service = managed(fleet, options.service.name)
  return roll(fleet, service, options, service.strays, () => service.stable)
}

function managed(fleet: Fleet, name: string): ManagedService {
  const service = fleet.service(name)
  if (service === undefined) throw new BrokerError('BATON_ERR_NOT_MANAGED', name)
  return service
}

function roll(
  fleet: Fleet,
  service: ManagedService,
  options: DeployOptions,
  instances: readonly number[],
  target: () => Generation,
): RunningDeploy {
  const { atOnce = 1, startLimit, clock = fleetClock, progress } = options
  const plan: DeployPlan = {
    service: service.name,
    instances,
    atOnce,
    minHealthy: options.service.minHealthy,
    external: options.service.external,
    drainDeadline: fleet.drainDeadline,
    ...(startLimit !== undefined && { startLimit }),
  }
  let settle: (result: DeployResult) => void
  const done = new Promise<DeployResult>((resolve) => (settle = resolve))
  const old = service.stable
  let generation: Generation
  const deploy = new Deploy(plan, {
    clock,
    start: (number, version) => service.startSuccessor(number, version === 'new' ? generation : old),
    promote: (number) => service.promote(number)?.id,
    discard: (number) => service.discard(number),
    places: () => new Set(service.numbers.flatMap((number) => service.instance(number)?.process?.id ?? [])),
    reports: () => fleet.reports,
    progress: (event) => progress?.(event),
    finished(result) {
      if (result.success || result.complete === true) service.commit(generation)
      forget()
      settle(result)
    },
  })
  const forget = fleet.observe(service.name, {
    exited: ({ id, output }, exit) => deploy.exited(id, exit, output),
    reported: (reports) => deploy.reported(reports),
    stopped: () => deploy.cancel('the broker stops'),
  })
  generation = target()
  deploy.begin()
  return { done, abort: () => deploy.abort() }
}
