import { dirname } from 'node:path'
import type { Logger } from 'pino'
import type { ServiceConfig } from '../../config/config.ts'
import { BrokerError, describeError, unknownService } from '../../errors.ts'
import { type RunningDeploy, startDeploy, startReturn } from './rolling-deploy.ts'
import type { CanaryPlan } from './deploy.ts'
import type { CanaryRequest, DeployCommand, DeployResult } from './messages.ts'
import { VERSION, VERSION_EXPECTED } from '../../config/version.ts'
import { type ChosenEnvironment, define } from '../fleet/definition.ts'
import { readChosen } from './chosen-environment.ts'
import type { Fleet } from '../fleet/fleet.ts'
import { type CommandResult, refusal } from '../../ipc/operator-protocol.ts'
import type { FilesOnDisk } from '../files-on-disk.ts'
import type { ActiveConfig } from '../active-config.ts'
import type { OperationLock } from '../operation-lock.ts'
import type { Shifts } from '../shift/shifts.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'

/** Parts of the master that a deploy uses. */
export interface DeployerParts {
  readonly fleet: Fleet
  readonly activeConfig: ActiveConfig
  readonly operationLock: OperationLock
  readonly files: Pick<FilesOnDisk, 'ensure'>
  readonly logger: Logger
  readonly shifts: Pick<Shifts, 'of' | 'set'>
  readonly workerPool: Pick<WorkerPool, 'reportChange'>
}

/** Runs deploys for all requesters, one at a time. */
export class Deployer {
  readonly #parts: DeployerParts
  #running: { readonly service: string; readonly deploy: RunningDeploy } | undefined

  constructor(parts: DeployerParts) {
    this.#parts = parts
  }

  /** Resolves when the deploy is over, with the answer that follows the progress lines. */
  async deploy(command: DeployCommand): Promise<CommandResult> {
    const { service: name, abort, by } = command
    const { activeConfig, operationLock, workerPool } = this.#parts
    const service = activeConfig.config.services.get(name)
    if (service === undefined)
      return refusal(describeError(unknownService(name, activeConfig.config.services.keys())))
    const change = { kind: 'deploy', service: name, by } as const
    let chosen: ChosenEnvironment | undefined
    try {
      if (command.environment !== undefined)
        chosen = readChosen(service, dirname(activeConfig.settings.file), command.environment)
    } catch (error) {
      return refusal(describeError(error))
    }
    const aborted = abort ? this.#abort(name, by) : undefined
    if (aborted !== undefined) {
      workerPool.reportChange({ ...change, text: `${by} aborts the deploy of service ${name}` })
      return answerOf(await aborted, true)
    }
    if (abort && this.#parts.fleet.service(name)?.strays.length === 0) {
      const why = 'no deploy is in progress, and no instance is of a new version'
      return { success: true, log: [`${name}: nothing to abort: ${why}`] }
    }
    operationLock.claim()
    if (operationLock.refusal !== undefined) return refusal(operationLock.refusal)
    operationLock.begin('deploy')
    try {
      const verb = abort ? 'reverts the deploy of' : 'deploys'
      const running = this.#run(service, command, chosen)
      workerPool.reportChange({ ...change, text: `${by} ${verb} service ${name}` })
      const result = await running
      const end = result.success ? 'was deployed' : `could not be deployed: ${result.reason}`
      workerPool.reportChange({ ...change, text: `service ${name} ${end}` })
      return answerOf(result, false)
    } catch (error) {
      const why = describeError(error)
      workerPool.reportChange({ ...change, text: `service ${name} was not deployed: ${why}` })
      return refusal(why)
    } finally {
      operationLock.end('deploy')
    }
  }

  /** Aborts the current deploy of the service; both requesters get the result. Undefined when there is none. */
  #abort(service: string, by: string): Promise<DeployResult> | undefined {
    if (this.#running?.service !== service) return undefined
    this.#parts.logger.info({ service, by }, 'aborting deploy')
    this.#running.deploy.abort()
    return this.#running.deploy.done
  }

  /** @throws {BrokerError} BATON_ERR_NOT_MANAGED, BATON_ERR_DEPLOY_RUNNING, BATON_ERR_BACKEND_FOLDER, BATON_ERR_NO_CANARY */
  async #run(
    service: ServiceConfig,
    command: DeployCommand,
    chosen: ChosenEnvironment | undefined,
  ): Promise<DeployResult> {
    const { fleet, activeConfig, files, logger } = this.#parts
    // New processes need the control socket.
    files.ensure()
    const { service: name, atOnce, abort, by } = command
    const begin = abort ? startReturn : startDeploy
    const base = dirname(activeConfig.settings.file)
    const folder = define(service, base)?.cwd
    let moved: string | undefined
    const canary = command.canary && this.#planCanary(service, command.canary, by, chosen)
    const deploy = begin(fleet, {
      service,
      base,
      atOnce,
      canary,
      chosen,
      progress: ({ step, instance, text }) => {
        if (step === 'done' && !abort) moved = movedFrom(folder, service, base)
        if (moved === undefined) command.progress(`${step} ${instance}: ${text}`)
        else command.progress(`failed ${instance}: ${moved}`)
      },
    })
    this.#running = { service: name, deploy }
    logger.info({ service: name, atOnce, abort, environment: chosen?.name, by }, 'deploying')
    const ended = await deploy.done
    this.#running = undefined
    const result: DeployResult =
      ended.success && moved !== undefined
        ? { success: false, reason: moved, output: [], aborted: false, returned: false }
        : ended
    if (result.success) logger.info({ service: name, replaced: result.replaced }, 'deployed')
    else logger.error({ service: name, reason: result.reason, returned: result.returned }, 'deploy failed')
    return result
  }

  /**
   * There must be two versions, and nothing that divides the connections already.
   *
   * @throws {BrokerError} BATON_ERR_NO_CANARY, BATON_ERR_NOT_MANAGED
   */
  #planCanary(
    service: ServiceConfig,
    request: CanaryRequest,
    by: string,
    chosen: ChosenEnvironment | undefined,
  ): CanaryPlan {
    const { fleet, activeConfig, shifts } = this.#parts
    const { name } = service
    if (service.command === null) throw new BrokerError('BATON_ERR_NOT_MANAGED', name)
    const version = define(service, dirname(activeConfig.settings.file), chosen)?.version ?? null
    if (version === null) throw noCanary(`the env of service ${name} has no BATON_VERSION`)
    if (!VERSION.test(version)) throw noCanary(`BATON_VERSION of service ${name}: ${VERSION_EXPECTED}`)
    const running = fleet.reports.filter(({ service: each, state }) => each === name && state !== 'draining')
    if (running.length === 0) throw noCanary(`no backend of service ${name} is running`)
    if (running.some((report) => report.version === version))
      throw noCanary(
        `version ${version} of service ${name} is running already; change BATON_VERSION in its env, and run "baton reload"`,
      )
    if (shifts.of(name) !== undefined)
      throw noCanary(`connections of service ${name} are shifted; "baton shift ${name} --off" ends that`)
    return {
      ...request,
      version,
      shift: (share) =>
        shifts.set(name, share === undefined ? undefined : { to: version, share, canary: true }, by),
    }
  }
}

function noCanary(why: string): BrokerError {
  return new BrokerError('BATON_ERR_NO_CANARY', why)
}

/** The problem, if `cwd` no longer leads to `folder`, where the processes were started: they are of another release. */
function movedFrom(folder: string | undefined, service: ServiceConfig, base: string): string | undefined {
  let now: string | undefined
  try {
    now = define(service, base)?.cwd
  } catch (error) {
    return describeError(error)
  }
  return now === folder ? undefined : `its cwd led to ${folder} and now leads to ${now}; deploy again`
}

/** The answer that follows the progress lines. */
function answerOf(result: DeployResult, aborting: boolean): CommandResult {
  if (result.success) return { success: !aborting, log: aborting ? ['the deploy had already finished'] : [] }
  const kept =
    result.complete === true
      ? 'every instance runs the new version'
      : result.returned
        ? 'every instance runs the old version'
        : 'some instances still run the new version'
  return {
    success: aborting && result.aborted && result.returned,
    log: [`${result.reason}; ${kept}`, ...result.output],
  }
}
