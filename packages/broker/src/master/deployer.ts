import { dirname } from 'node:path'
import type { Logger } from 'pino'
import type { ServiceConfig } from '../config/index.ts'
import {
  type DeployProgress,
  type DeployResult,
  type RunningDeploy,
  startDeploy,
  startReturn,
} from '../deploy/index.ts'
import type { Fleet } from '../fleet/index.ts'

export interface DeployRequest {
  readonly service: ServiceConfig
  /** The configuration file. */
  readonly file: string
  /** How many instances at a time. */
  readonly atOnce: number
  /** Back to the old version. */
  readonly abort: boolean
  /** Who asked for it. */
  readonly by: string
  readonly progress: (progress: DeployProgress) => void
}

/** One deploy at a time, whoever asks for it. */
export class Deployer {
  readonly #fleet: Fleet
  readonly #logger: Logger
  #running: { readonly service: string; readonly deploy: RunningDeploy } | undefined

  constructor(fleet: Fleet, logger: Logger) {
    this.#fleet = fleet
    this.#logger = logger
  }

  /** Ends what goes on: its asker hears how that went, and so does who awaits this. Undefined when nothing goes on there. */
  abort(service: string, by: string): Promise<DeployResult> | undefined {
    if (this.#running?.service !== service) return undefined
    this.#logger.info({ service, by }, 'deploy is aborted')
    this.#running.deploy.abort()
    return this.#running.deploy.done
  }

  /** @throws {BrokerError} BATON_ERR_NOT_MANAGED, BATON_ERR_DEPLOY_RUNNING, BATON_ERR_BACKEND_FOLDER */
  async run({ service, file, atOnce, abort, by, progress }: DeployRequest): Promise<DeployResult> {
    const { name } = service
    const begin = abort ? startReturn : startDeploy
    const deploy = begin(this.#fleet, { service, base: dirname(file), atOnce, progress })
    this.#running = { service: name, deploy }
    this.#logger.info({ service: name, atOnce, abort, by }, 'deploying')
    const result = await deploy.done
    this.#running = undefined
    if (result.success) this.#logger.info({ service: name, replaced: result.replaced }, 'deployed')
    else
      this.#logger.error({ service: name, reason: result.reason, returned: result.returned }, 'deploy failed')
    return result
  }
}

/** What the asker reads behind the progress. */
export function answerOf(
  result: DeployResult,
  aborting: boolean,
): { success: boolean; log: readonly string[] } {
  if (result.success) return { success: !aborting, log: aborting ? ['the deploy was done already'] : [] }
  const kept = result.returned ? 'everything is the old version' : 'instances of the new version are left'
  return {
    success: aborting && result.aborted && result.returned,
    log: [`${result.reason}; ${kept}`, ...result.output],
  }
}
