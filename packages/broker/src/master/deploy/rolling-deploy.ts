import type { ServiceConfig } from '../../config/config.ts'
import { BrokerError } from '../../errors.ts'
import { type ChosenEnvironment, define, type Generation } from '../fleet/definition.ts'
import type { Fleet } from '../fleet/fleet.ts'
import { type FleetClock, fleetClock } from '../fleet/os.ts'
import type { ManagedService } from '../fleet/managed-service.ts'
import { type CanaryPlan, Deploy, type DeployPlan } from './deploy.ts'
import type { DeployProgress, DeployResult } from './messages.ts'

export interface DeployOptions {
  /** From the active configuration. */
  readonly service: ServiceConfig
  /** Folder of the configuration file. */
  readonly base: string
  /** How many instances to replace at a time, at least 1. Default: 1. */
  readonly atOnce?: number
  readonly startLimit?: number
  /** Default: the environment of the configuration. */
  readonly chosen?: ChosenEnvironment | undefined
  /** Default: the new version is not tried first. */
  readonly canary?: CanaryPlan | undefined
  readonly clock?: FleetClock
  readonly progress?: (progress: DeployProgress) => void
}

export interface RunningDeploy {
  /** Never rejects. */
  readonly done: Promise<DeployResult>
  /** Reverts to the old version; `done` then resolves with the result of that. */
  abort(): void
}

/**
 * Replaces every instance of a service with what the configuration now defines. If command, environment and working
 * directory have not changed, the same program is restarted.
 *
 * @throws {BrokerError} BATON_ERR_NOT_MANAGED, BATON_ERR_DEPLOY_RUNNING, BATON_ERR_BACKEND_FOLDER
 */
export function startDeploy(fleet: Fleet, options: DeployOptions): RunningDeploy {
  const service = managed(fleet, options.service.name)
  const definition = define(options.service, options.base, options.chosen)
  if (definition === undefined) throw new BrokerError('BATON_ERR_NOT_MANAGED', options.service.name)
  return roll(fleet, service, options, service.numbers, () => service.nextGeneration(definition))
}

/**
 * Reverts the instances that a failed deploy has left on the new version. A deploy without steps if there are none.
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
  let resolveDone: (result: DeployResult) => void
  const done = new Promise<DeployResult>((resolve) => (resolveDone = resolve))
  const forget = fleet.observe(service.name, {
    exited: ({ id, output }, exit) => deploy.exited(id, exit, output),
    reported: (reports, fresh) => deploy.reported(reports, fresh),
    stopped: () => deploy.cancel('the broker is stopping'),
  })
  const versions = { new: target(), old: service.stable }
  const plan: DeployPlan = {
    fleet,
    service,
    versions,
    instances,
    atOnce,
    minHealthy: options.service.minHealthy,
    external: options.service.external,
    drainDeadline: service.drainDeadline,
    ...(startLimit !== undefined && { startLimit }),
    canary: options.canary,
  }
  const finished = (result: DeployResult) => {
    if (result.success || result.complete === true) service.commit(versions.new)
    forget()
    resolveDone(result)
  }
  const deploy = new Deploy(plan, clock, (event) => progress?.(event), finished)
  deploy.begin()
  return { done, abort: () => deploy.abort() }
}
