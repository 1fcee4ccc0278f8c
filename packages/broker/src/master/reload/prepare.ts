import { setImmediate } from 'node:timers/promises'
import { blockSignals, executeInPlace, type OwnedFd } from '@baton/native-sendmsg'
import { ConfigError, readConfigTextAtOnce } from '../../config/index.ts'
import { describeError } from '../../errors.ts'
import type { Change } from '../../api/events.ts'
import type { Fleet } from '../fleet/index.ts'
import type { Notifier } from '../systemd/index.ts'
import type { Counters } from '../workers/counters.ts'
import type { SessionHandover } from './session-handover.ts'
import type { FilesOnDisk } from '../files-on-disk.ts'
import { type ActiveConfig, readSettings } from '../active-config.ts'
import type { CommandLine, InstalledProgram } from './installed-program.ts'
import type { OperationLock } from '../operation-lock.ts'
import { type ReloadRequest, requesterOf } from './reloads.ts'
import { checkProgram } from './program-check.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { StartLog } from '../start-log.ts'
import { type Requester, descriptorsOf, type MasterState, STATE_VARIABLE, writeState } from './state.ts'
import { STATE_VERSION } from '../../ipc/state-version.ts'

/** What of a master both halves of a reload deal with. */
export interface ReloadParts {
  readonly log: StartLog
  readonly notifier: Notifier
  readonly operationLock: OperationLock
  readonly activeConfig: ActiveConfig
  readonly workerPool: WorkerPool
  readonly fleet: Fleet
  readonly counters: Counters
  readonly sessionHandover: SessionHandover
  readonly files: Pick<FilesOnDisk, 'ensure'>
  /** Those who listen to the events hear it. */
  readonly tell: (change: Change) => void
}

/** What crosses exec beside them. */
type Carried = Pick<MasterState, 'lock' | 'lifeline' | 'executions' | 'startedAt' | 'run'> & {
  /** Requests for the reload behind this one. */
  readonly waiting: readonly ReloadRequest[]
}

/**
 * The first half of a reload, in the program that is to be replaced: looks at all that can be refused, and hands over. The other half is
 * `ReloadResumption` of the program that replaces it.
 */
export class ReloadPreparation {
  readonly #parts: ReloadParts
  readonly #program: InstalledProgram
  readonly #carried: () => Carried
  readonly #stopped = new AbortController()

  /**
   * @param program that replaces this one
   * @param carried called right before exec
   */
  constructor(parts: ReloadParts, program: InstalledProgram, carried: () => Carried) {
    this.#parts = parts
    this.#program = program
    this.#carried = carried
  }

  /** The master stops: a reload that goes on gives way, whatever it waits for. */
  stop(): void {
    this.#stopped.abort()
  }

  /**
   * On success it does not return, and the program that replaces this one answers all of `requests`.
   *
   * @param refused says why nothing has changed
   */
  async reload(
    requests: readonly [ReloadRequest, ...ReloadRequest[]],
    refused: (log: readonly string[]) => void,
  ): Promise<void> {
    const { log, notifier, operationLock, activeConfig, workerPool, counters, files, tell } = this.#parts
    operationLock.begin('reload')
    notifier.reloading()
    const [first] = requests
    const by = requesterOf(first)
    const joined = requests.length > 1 && { requests: requests.length }
    const givesWay = () => operationLock.activity !== 'reload'
    let why: string
    try {
      log.logger.info({ asker: first.requester.kind, by, ...joined }, 'reloading')
      tell({ kind: 'reload', by, text: `${by} reloads the broker` })
      // A broker that no backend and no operator can reach is not reloaded.
      files.ensure()
      this.#program.enterFolder()
      const next = this.#readNext()
      const program = this.#program.forReload()
      const problem = await checkProgram(program, activeConfig.settings.file, this.#stopped.signal)
      const stops = () => {
        if (!givesWay()) return false
        log.proceed()
        refused(['a stop is going on'])
        return true
      }
      if (stops()) return
      await log.pause()
      // Everything that is half said in a channel is read first.
      await workerPool.becomeQuiet()
      if (stops()) return
      why = problem ?? (await this.#executeQuietly(program, requests, next))
      if (stops()) return
    } catch (error) {
      why = describeError(error)
    }
    log.proceed()
    operationLock.end('reload')
    counters.reloaded('failure', Date.now() / 1000)
    log.logger.error({ reason: why }, 'reload failed; nothing has changed')
    tell({ kind: 'reload', by, text: `the reload failed, and nothing has changed: ${why}` })
    notifier.ready(`serving; reload failed: ${why}`)
    refused(why.split('\n'))
  }

  /**
   * The text of the configuration that is to be.
   *
   * @throws {ConfigError}
   */
  #readNext(): string {
    const { settings, config } = this.#parts.activeConfig
    const { file } = settings
    const next = readSettings(file, readConfigTextAtOnce(file))
    if (next.config.runtimeDir !== config.runtimeDir) {
      throw new ConfigError(file, [
        { path: 'runtimeDir', message: 'cannot be changed by a reload; stop and start' },
      ])
    }
    return next.text
  }

  /**
   * Signals wait for the next program from here on; those that have come already are handled before, in two more turns of the event
   * loop. After the last of them nothing more is read until exec.
   */
  async #executeQuietly(
    program: CommandLine,
    requests: readonly ReloadRequest[],
    next: string,
  ): Promise<string> {
    const { workerPool, operationLock } = this.#parts
    const restore = blockSignals()
    try {
      do {
        await setImmediate()
        await setImmediate()
        await workerPool.becomeQuiet()
      } while (!workerPool.quiet)
      return operationLock.activity === 'reload'
        ? this.#execute(program, requests, next)
        : 'a stop is going on'
    } finally {
      restore()
    }
  }

  /** Replaces this program. Returns only when that failed, with the reason. */
  #execute({ node, args }: CommandLine, requests: readonly ReloadRequest[], next: string): string {
    const { notifier, activeConfig, workerPool, counters, sessionHandover } = this.#parts
    const { file, text } = activeConfig.settings
    const { waiting, ...carried } = this.#carried()
    const askers = requests.map((request) => this.#enter(request))
    const later = waiting.map((request) => this.#enter(request))
    let written: OwnedFd | undefined
    try {
      const fleet = this.#parts.fleet.serialize()
      const state: MasterState = {
        ...carried,
        version: STATE_VERSION,
        program: this.#program.names,
        file,
        text,
        candidate: next,
        sockets: activeConfig.sockets.state,
        pair: sessionHandover.numbers,
        workers: [...workerPool.workers].map((worker) => worker.state),
        known: workerPool.known,
        started: workerPool.started,
        counters: counters.state,
        fleet: fleet.state,
        log: this.#parts.log.state,
        askers,
        waiting: later,
      }
      written = writeState(state)
      executeInPlace({
        path: node,
        args: [...args, 'start', '--config', file],
        env: { ...process.env, ...notifier.environment, [STATE_VARIABLE]: String(written.fd) },
        keep: [written.fd, ...descriptorsOf(state), ...fleet.keep],
        keepSignals: true,
      })
      return 'exec has returned'
    } catch (error) {
      // What waits in the pair are duplicates of what the sessions still have.
      for (const { kind } of [...askers, ...later])
        if (kind === 'session') sessionHandover.receiveSession().close()
      return describeError(error)
    } finally {
      written?.close()
    }
  }

  /** @returns the asker as the next program finds it: a session that is over, or cannot cross, is like a signal */
  #enter({ requester: asker, session }: ReloadRequest): Requester {
    if (asker.kind !== 'session') return asker
    if (session?.open !== true) return { kind: 'signal' }
    try {
      this.#parts.sessionHandover.sendSession(session)
      return asker
    } catch (error) {
      // The reload goes on without an answer to this session.
      this.#parts.log.logger.error({ err: error }, 'the session that asked cannot cross the reload')
      session.close()
      return { kind: 'signal' }
    }
  }
}
