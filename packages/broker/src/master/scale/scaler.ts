import type { Logger } from 'pino'
import type { ScaleResult } from '../../api/scale.ts'
import type { ServiceConfig } from '../../config/config.ts'
import { MAX_INSTANCES } from '../../config/instances.ts'
import { BrokerError, describeError } from '../../errors.ts'
import { refusal } from '../../ipc/operator-protocol.ts'
import type { ActiveConfig } from '../active-config.ts'
import type { FilesOnDisk } from '../files-on-disk.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagedService } from '../fleet/managed-service.ts'
import { type FleetClock, fleetClock } from '../fleet/os.ts'
import type { OperationLock } from '../operation-lock.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { ScaleAnswer, ScaleCommand } from './messages.ts'
import { Scaling } from './scaling.ts'

/** Parts of the master that a scale uses. */
export interface ScalerParts {
  readonly fleet: Fleet
  readonly activeConfig: Pick<ActiveConfig, 'config'>
  readonly operationLock: OperationLock
  readonly files: Pick<FilesOnDisk, 'ensure'>
  readonly logger: Logger
  readonly workerPool: Pick<WorkerPool, 'reportChange'>
  readonly clock?: FleetClock
}

/** Changes the number of instances of a service at run time. One that fails changes nothing. */
export async function scale(command: ScaleCommand, parts: ScalerParts): Promise<ScaleAnswer> {
  const { service: name, by } = command
  const { operationLock, workerPool } = parts
  try {
    const found = find(parts, name)
    const to = wanted(command, found.service.numbers.length)
    operationLock.claim()
    if (operationLock.refusal !== undefined) return refusal(operationLock.refusal)
    const before = found.service.numbers.length
    const text = `${by} scales service ${name} from ${before} to ${to} instances`
    operationLock.begin('scale')
    try {
      parts.files.ensure()
      if (to !== before) workerPool.reportChange({ kind: 'scale', service: name, to: String(to), by, text })
      return await run(found, to, command, parts)
    } catch (error) {
      const why = describeError(error)
      parts.logger.error({ service: name, reason: why }, 'scale failed')
      workerPool.reportChange({
        kind: 'scale',
        service: name,
        text: `service ${name} was not scaled: ${why}`,
      })
      throw error
    } finally {
      operationLock.end('scale')
    }
  } catch (error) {
    return refusal(describeError(error))
  }
}

interface Found {
  readonly config: ServiceConfig
  readonly service: ManagedService
}

async function run(
  { config, service }: Found,
  to: number,
  { service: name, by, progress }: ScaleCommand,
  { fleet, logger, clock = fleetClock }: ScalerParts,
): Promise<ScaleAnswer> {
  const before = service.numbers.length
  const { instances: configured, minHealthy } = config
  logger.info({ service: name, instances: to, before, configured, by }, 'scaling')
  const scaling = new Scaling(fleet, service, { minHealthy, configured }, clock, progress)
  const { started, stopped, problem, output } = await scaling.to(to)
  if (problem !== undefined) {
    logger.error({ service: name, instances: before, reason: problem }, 'scale failed')
    return { success: false, log: [`${problem}; ${name} still has ${count(before)}`, ...output] }
  }
  logger.info({ service: name, instances: to }, 'scaled')
  const named = (numbers: readonly number[]) => numbers.map((number) => `${name}.${number}`)
  const result: ScaleResult = {
    service: name,
    before,
    instances: to,
    configured,
    started: named(started),
    stopped: named(stopped),
  }
  return { success: true, log: [summary(result)], result }
}

function summary({ service, before, instances, configured }: ScaleResult): string {
  const what =
    instances === before ? `${count(instances)} already` : `${count(instances)} (before: ${before})`
  const until =
    instances === configured ? '' : `; in force until the configuration has another number than ${configured}`
  return `${service}: ${what}${until}`
}

/** @throws {BrokerError} BATON_ERR_SCALE */
function find({ activeConfig, fleet }: ScalerParts, name: string): Found {
  const config = activeConfig.config.services.get(name)
  if (config === undefined) {
    const known = [...activeConfig.config.services.keys()].join(', ')
    throw cannot(`there is no service ${JSON.stringify(name)}; there are: ${known}`)
  }
  const service = fleet.service(name)
  if (config.command === null || service === undefined)
    throw cannot(`service ${name} has no command, so Baton does not start its backends`)
  return { config, service }
}

/** @throws {BrokerError} BATON_ERR_SCALE */
function wanted({ service, target }: ScaleCommand, before: number): number {
  const to = 'instances' in target ? target.instances : before + target.change
  if (Number.isInteger(to) && to >= 1 && to <= MAX_INSTANCES) return to
  const now = 'change' in target ? ` (it has ${before})` : ''
  throw cannot(`service ${service} can have 1 to ${MAX_INSTANCES} instances, not ${to}${now}`)
}

function cannot(why: string): BrokerError {
  return new BrokerError('BATON_ERR_SCALE', why)
}

function count(instances: number): string {
  return `${instances} instance${instances === 1 ? '' : 's'}`
}
