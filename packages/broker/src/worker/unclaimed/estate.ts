import { dup, NativeError, type OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { Config } from '../../config/config.ts'
import { keptOutputOf } from '../../config/service-rules.ts'
import type { ToWorker } from '../../ipc/messages.ts'
import { OutputKeeper } from '../../log/kept/output-keeper.ts'
import { ProcessOutput } from '../../supervise/output.ts'
import { OutputPipe } from '../../supervise/output-pipe.ts'

export type Kept = Extract<ToWorker, { type: 'estate' }>

/**
 * Everything that the next master needs, as the last one sent it. While there is no master, what managed processes write goes to this worker's log,
 * and is kept: a process whose output is not read would block. Owns the descriptors; the first is the operator's socket.
 */
export class KeptEstate {
  readonly #kept: Kept
  readonly #fds: readonly OwnedFd[]
  #pipes: (() => void)[] = []
  #keeper: OutputKeeper | undefined

  constructor(kept: Kept, fds: readonly OwnedFd[]) {
    this.#kept = kept
    this.#fds = fds
  }

  get estate(): unknown {
    return this.#kept.estate
  }

  get operator(): OwnedFd {
    return this.#fds[0] as OwnedFd
  }

  /** @throws {NativeError} this process may open no more */
  duplicates(): OwnedFd[] {
    const copies: OwnedFd[] = []
    try {
      for (const { fd } of this.#fds) copies.push(dup(fd))
      return copies
    } catch (error) {
      for (const copy of copies) copy.close()
      throw error
    }
  }

  readOutputs(logger: Logger, config: Config): void {
    void this.stopReading()
    const keeper = new OutputKeeper({
      runtimeDir: config.runtimeDir,
      limits: (service) => keptOutputOf(config, service),
      logger,
    })
    this.#keeper = keeper
    for (const { index, instance, backend, pid, stream, service, slot = null } of this.#kept.outputs) {
      const fd = this.#fds[index]
      if (fd === undefined) continue
      const log = logger.child({ instance, backend, peerPid: pid })
      const output = new ProcessOutput(log, (_, lines) => {
        if (service !== undefined) keeper.write({ service, instance, backend, slot }, stream, lines)
      })
      const end = () => output.end()
      const copy = duplicateOf(fd)
      if (copy === undefined) {
        log.error('its output is not read: this process may open no more descriptors')
        continue
      }
      const pipe = new OutputPipe(copy.release(), {
        data: (chunk) => output.write(stream, chunk),
        ended: end,
      })
      this.#pipes.push(() => {
        pipe.close()
        end()
      })
    }
  }

  /** There will be no next master: clients are refused from now on. */
  closeSockets(): void {
    for (const fd of this.#fds.slice(0, this.#kept.sockets)) fd.close()
  }

  /** Resolves when what was read is kept. */
  async stopReading(): Promise<void> {
    for (const stop of this.#pipes.splice(0)) stop()
    const keeper = this.#keeper
    this.#keeper = undefined
    await keeper?.end()
  }

  close(): void {
    void this.stopReading()
    for (const fd of this.#fds) fd.close()
  }
}

function duplicateOf({ fd }: OwnedFd): OwnedFd | undefined {
  try {
    return dup(fd)
  } catch (error) {
    if (error instanceof NativeError) return undefined
    throw error
  }
}
