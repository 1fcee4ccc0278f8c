import { describeError } from '../errors.ts'
import type { ActiveConfig } from './active-config.ts'
import type { Upkeep, UpkeepParts } from './replace/upkeep.ts'
import type { ScaleAnswer, ScaleCommand } from './scale/messages.ts'
import type { ScalerParts } from './scale/scaler.ts'

/**
 * Parts of the master that few of them need: their code is loaded for the first use. By then an upgrade may have replaced the files of this
 * program; the master serves without the part, and the next program has its own.
 */
export class LateParts {
  readonly #parts: ScalerParts & UpkeepParts & { readonly activeConfig: ActiveConfig }
  #upkeep: Upkeep | undefined

  constructor(parts: ScalerParts & UpkeepParts & { readonly activeConfig: ActiveConfig }) {
    this.#parts = parts
  }

  /** Starts to watch memory and schedules, where a service asks for it. */
  async keepUp(): Promise<void> {
    const services = [...this.#parts.activeConfig.config.services.values()]
    for (const { name } of services) this.#parts.counters.replaced(name)
    if (services.every(({ maxMemory, restartEvery }) => maxMemory === null && restartEvery === null)) return
    try {
      const { Upkeep: Loaded } = await import('./replace/upkeep.ts')
      if (this.#parts.operationLock.activity !== 'stop') this.#upkeep = await Loaded.start(this.#parts)
    } catch (error) {
      this.#parts.logger.error(
        { err: error },
        'maxMemory and restartEvery have no effect until the next reload',
      )
    }
  }

  /** Does not throw. */
  async scale(command: ScaleCommand): Promise<ScaleAnswer> {
    try {
      const { scale } = await import('./scale/scaler.ts')
      return await scale(command, this.#parts)
    } catch (error) {
      return {
        success: false,
        log: [`${describeError(error)}; if Baton was upgraded, run "baton reload" first`],
      }
    }
  }

  close(): void {
    this.#upkeep?.close()
  }
}
