import { dirname } from 'node:path'
import type { Logger } from 'pino'
import type { ServiceConfig } from '../../config/index.ts'
import { describeError } from '../../errors.ts'
import { type RunningDeploy, startDeploy, startReturn } from './rolling-deploy.ts'
import type { DeployResult } from './progress.ts'
import type { Change } from '../../api/events.ts'
import { define, type Fleet } from '../fleet/index.ts'
import { type CommandResult, refusal } from '../../ipc/operator-protocol.ts'
import type { FilesOnDisk } from '../files-on-disk.ts'
import type { ActiveConfig } from '../active-config.ts'
import type { OperationLock } from '../operation-lock.ts'

export interface DeployCommand {
  readonly service: string
  /** How many instances at a time. */
  readonly atOnce: number
  /** Ends the one that goes on, or goes back to the old version. */
  readonly abort: boolean
  /** Who asks. */
  readonly by: string
  readonly progress: (line: string) => void
}

/** What of a master a deploy deals with. */
export interface DeployerParts {
  readonly fleet: Fleet
  readonly activeConfig: ActiveConfig
  readonly operationLock: OperationLock
  readonly files: Pick<FilesOnDisk, 'ensure'>
  readonly logger: Logger
  /** Those who listen to the events hear it. */
  readonly tell: (change: Change) => void
}

/** One deploy at a time, whoever asks for it. */
export class Deployer {
  readonly #parts: DeployerParts
  #running: { readonly service: string; readonly deploy: RunningDeploy } | undefined

  constructor(parts: DeployerParts) {
    this.#parts = parts
  }

  /** Resolves when it is over, with what its asker reads behind the progress. */
  async deploy(command: DeployCommand): Promise<CommandResult> {
    const { service: name, abort, by } = command
    const { activeConfig, operationLock, tell } = this.#parts
    const service = activeConfig.config.services.get(name)
    if (service === undefined) {
      const known = [...activeConfig.config.services.keys()].join(', ')
      return refusal(`there is no service ${JSON.stringify(name)}; there are: ${known}`)
    }
    const told = { kind: 'deploy', service: name, by } as const
    const aborted = abort ? this.#abort(name, by) : undefined
    if (aborted !== undefined) {
      tell({ ...told, text: `${by} aborts the deploy of service ${name}` })
      return answerOf(await aborted, true)
    }
    if (abort && this.#parts.fleet.service(name)?.strays.length === 0) {
      const why = 'no deploy is in progress, and no instance is of a new version'
      return { success: true, log: [`${name}: nothing to abort: ${why}`] }
    }
    if (operationLock.refusal !== undefined) return refusal(operationLock.refusal)
    operationLock.begin('deploy')
    try {
      const way = abort ? 'returns to the old version of' : 'deploys'
      const running = this.#run(service, command)
      tell({ ...told, text: `${by} ${way} service ${name}` })
      const result = await running
      const end = result.success ? 'is deployed' : `could not be deployed: ${result.reason}`
      tell({ ...told, text: `service ${name} ${end}` })
      return answerOf(result, false)
    } catch (error) {
      const why = describeError(error)
      tell({ ...told, text: `service ${name} is not deployed: ${why}` })
      return refusal(why)
    } finally {
      operationLock.end('deploy')
    }
  }

  /** Ends what goes on: its asker hears how that went, and so does who awaits this. Undefined when nothing goes on there. */
  #abort(service: string, by: string): Promise<DeployResult> | undefined {
    if (this.#running?.service !== service) return undefined
    this.#parts.logger.info({ service, by }, 'deploy is aborted')
    this.#running.deploy.abort()
    return this.#running.deploy.done
  }

  /** @throws {BrokerError} BATON_ERR_NOT_MANAGED, BATON_ERR_DEPLOY_RUNNING, BATON_ERR_BACKEND_FOLDER */
  async #run(service: ServiceConfig, command: DeployCommand): Promise<DeployResult> {
    const { fleet, activeConfig, files, logger } = this.#parts
    // A new process has to find the control socket.
    files.ensure()
    const { service: name, atOnce, abort, by } = command
    const begin = abort ? startReturn : startDeploy
    const base = dirname(activeConfig.settings.file)
    const folder = define(service, base)?.cwd
    let moved: string | undefined
    const deploy = begin(fleet, {
      service,
      base,
      atOnce,
      progress: ({ step, instance, text }) => {
        if (step === 'done' && !abort) moved = movedFrom(folder, service, base)
        if (moved === undefined) command.progress(`${step} ${instance}: ${text}`)
        else command.progress(`failed ${instance}: ${moved}`)
      },
    })
    this.#running = { service: name, deploy }
    logger.info({ service: name, atOnce, abort, by }, 'deploying')
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
}

/** Whether processes that were started in `folder` are of another release than the one that the links of `cwd` lead to now. */
function movedFrom(folder: string | undefined, service: ServiceConfig, base: string): string | undefined {
  let now: string | undefined
  try {
    now = define(service, base)?.cwd
  } catch (error) {
    return describeError(error)
  }
  return now === folder ? undefined : `its cwd led to ${folder}, and leads to ${now} since; deploy again`
}

/** What the asker reads behind the progress. */
function answerOf(result: DeployResult, aborting: boolean): CommandResult {
  if (result.success) return { success: !aborting, log: aborting ? ['the deploy was done already'] : [] }
  const kept =
    result.complete === true
      ? 'every instance is the new version'
      : result.returned
        ? 'everything is the old version'
        : 'instances of the new version are left'
  return {
    success: aborting && result.aborted && result.returned,
    log: [`${result.reason}; ${kept}`, ...result.output],
  }
}
