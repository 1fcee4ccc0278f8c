import { setTimeout as sleep } from 'node:timers/promises'
import type { OwnedFd } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { CommandError } from '../../exit-codes.ts'
import type { BackendReport } from '../fleet/backend-report.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagedProcess } from '../fleet/managed-process.ts'
import type { ProcessExit } from '../../supervise/child.ts'
import { openListener } from '../../listening/sockets.ts'
import { type CommandResult, refusal, type PortRequest } from '../../ipc/operator-protocol.ts'
import type { Deployer } from '../deploy/deployer.ts'
import type { Launcher } from './launchers.ts'
import type { OperationLock } from '../operation-lock.ts'
import { type ActiveConfig, readSettings } from '../active-config.ts'
import {
  type ListenerPlan,
  type PortAssignments,
  planListener,
  describePort,
  writeDown,
} from './port-assignments.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { StartHistory } from './start-history.ts'
import { StartWatch } from './start-watch.ts'
import { watchedNames } from './watch-folder.ts'

/** Options of `baton run`, and the state of its app. */
export interface RunState {
  readonly claims: PortAssignments
  /** The folder whose changes redeploy the app; null without `--watch`. */
  readonly watch: string | null
  /** Created for this run, and removed at its end. */
  readonly folder: string
  /** `always`: keep restarting an app that does not start. Absent in the state of an older version, and then `always`. */
  readonly restart?: 'limited' | 'always'
  /** Results of the app's starts so far. */
  readonly starts?: StartHistory
  /** Unix time in ms: the last deploy began then, so later changes of files are not deployed yet. Absent at the start. */
  readonly watchedUntil?: number
  /** The names of what was watched then (`watchedNames`). Absent from the state of an older version. */
  readonly watchedNames?: string
  /** Processes that launched this one, which stops when they end. */
  readonly launchers?: readonly Launcher[]
}

/** The kernel dates a change of a file with the time of its last tick, so up to 10 ms early. */
const TICK_MS = 10

/**
 * Deploys in a row, each for a change during the one before, that follow at once. The next ones wait, twice as long each time: an app that writes a file
 * in its folder when it starts would be started without end.
 */
const FREE_DEPLOYS = 3
const FIRST_PAUSE_MS = 1000
const MAX_PAUSE_MS = 30_000

/** Parts of the master that `AppRun` uses. */
export interface AppRunParts {
  readonly activeConfig: ActiveConfig
  readonly workerPool: Pick<WorkerPool, 'listen'>
  readonly deployer: Pick<Deployer, 'deploy'>
  readonly operationLock: Pick<OperationLock, 'activity' | 'idle'>
  readonly logger: Logger
  readonly fleet: Pick<Fleet, 'statuses'>
  /** Stops the broker. `failure`: the command fails with it. */
  readonly stop: (reason: string, failure?: CommandError) => void
}

/**
 * The parts of a master that only `baton run` uses: turns the ports that the app listens on into listeners, deploys changed files, and
 * stops the broker when the app does not start. Does nothing under `baton start`.
 *
 * Owner of the port assignments.
 */
export class AppRun {
  readonly #parts: AppRunParts
  #state: RunState | undefined
  #changedFile: string | undefined
  #changed = false
  /** Unix time in ms: files that have changed since are not deployed yet, reported or not. */
  #deployedAt: number
  /** The names of files then; undefined without `--watch`. */
  #names: string | undefined
  #redeploying = false
  #over = false
  readonly #starts: StartWatch | undefined

  /** @param state undefined under `baton start` */
  constructor(state: RunState | undefined, parts: AppRunParts) {
    this.#state = state
    this.#parts = parts
    this.#deployedAt = state?.watchedUntil ?? Date.now()
    if (state === undefined) return
    // An older version has left the time alone.
    if (state.watch !== null)
      this.#names = state.watchedUntil === undefined ? watchedNames(state.watch) : state.watchedNames
    const policy = state.restart !== 'limited' ? 'always' : state.watch === null ? 'limited' : 'first'
    this.#starts = new StartWatch(
      policy,
      state.starts,
      parts,
      () => Object.keys(this.#state?.claims ?? {}),
      (error) => parts.stop('the app does not start', error),
    )
  }

  get state(): RunState | undefined {
    // Not the time of now: `watchFolder` waits for further changes, and on a busy machine this program may not have read the last one yet.
    const watchedUntil = this.#changed ? 0 : this.#deployedAt
    return (
      this.#state && {
        ...this.#state,
        ...(this.#starts && { starts: this.#starts.history }),
        watchedUntil,
        ...(this.#names !== undefined && { watchedNames: this.#names }),
      }
    )
  }

  /** Call when the app's processes were started. */
  begin(): void {
    this.#starts?.begin()
  }

  reported(reports: readonly BackendReport[]): void {
    this.#starts?.reported(reports)
  }

  exited(process: ManagedProcess, exit: ProcessExit): void {
    if (!this.#over) this.#starts?.exited(process, exit)
  }

  /** Serves a port that the app listens on. Each of its processes requests the same ports. */
  async listen(request: PortRequest): Promise<CommandResult> {
    const { activeConfig, workerPool, logger } = this.#parts
    const { file, text } = activeConfig.settings
    if (this.#state === undefined)
      return refusal(`only baton run takes requests to listen; the listeners are defined in ${file}`)
    const decision = planListener(text, this.#state.claims, request)
    if (decision.kind === 'new' && request.probe === true) return probe(decision, file)
    const claims =
      request.probe === true
        ? this.#state.claims
        : { ...this.#state.claims, [String(request.port)]: decision.listener }
    if (decision.kind === 'new') {
      let fd: OwnedFd | undefined
      let settings
      try {
        fd = openListener({ name: decision.listener, listen: decision.listen })
        settings = readSettings(file, decision.text)
        writeDown(file, decision.text)
      } catch (error) {
        fd?.close()
        return refusal(error instanceof Error ? error.message : String(error))
      }
      const sockets = activeConfig.sockets.add(decision.listener, fd, decision.listen)
      activeConfig.replace(settings, sockets)
      this.#state = { ...this.#state, claims }
      const listener = settings.config.listeners.find(({ name }) => name === decision.listener)
      const service = settings.config.services.get(listener?.service ?? '')
      if (listener !== undefined && service !== undefined) await workerPool.listen(listener, service, fd)
    }
    this.#state = { ...this.#state, claims }
    const socket = activeConfig.sockets.listeners.get(decision.listener)
    if (socket === undefined || socket.fd.closed) return refusal('the broker is stopping')
    const opened = describePort(activeConfig.settings.text, file, decision.listener, socket.fd)
    if (decision.kind === 'new') logger.info(opened, 'listening for the app')
    return { success: true, log: [JSON.stringify(opened)] }
  }

  /**
   * Files have changed: deploys when no operation is in progress, and again if they change during the deploy.
   *
   * @param file one of them, if it is known
   */
  redeploy(file?: string): void {
    this.#changed = true
    this.#changedFile = file
    if (!this.#redeploying) void this.#redeploy()
  }

  /** The master is stopping: begins no further deploy. */
  end(): void {
    this.#over = true
    this.#starts?.end()
  }

  async #redeploy(): Promise<void> {
    this.#redeploying = true
    const { activeConfig, deployer, operationLock, logger } = this.#parts
    let row = 0
    while (this.#changed && !this.#over) {
      if (row >= FREE_DEPLOYS) await this.#pause(row - FREE_DEPLOYS)
      await operationLock.idle()
      // A reload that has waited too may have begun: the deploy would be refused, and the change forgotten.
      if (operationLock.activity !== undefined || this.#over) continue
      row += 1
      this.#changed = false
      if (this.#changedFile !== undefined) logger.info({ file: this.#changedFile }, 'a file has changed')
      this.#deployedAt = Date.now() - TICK_MS
      const folder = this.#state?.watch ?? null
      if (folder !== null) this.#names = watchedNames(folder)
      for (const { name, command } of activeConfig.config.services.values()) {
        if (command === null) continue
        const { success, log } = await deployer.deploy({
          service: name,
          atOnce: 1,
          abort: false,
          by: 'a changed file',
          progress: (line) => logger.info(line),
        })
        // The reason alone: what the process printed is in this log already.
        const [reason] = log
        if (!success && reason !== undefined) logger.error(reason)
      }
    }
    this.#redeploying = false
  }

  async #pause(times: number): Promise<void> {
    const delayMs = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** times)
    const file = this.#changedFile
    this.#parts.logger.warn(
      { ...(file !== undefined && { file }), delayMs },
      'files change during each deploy; waiting',
    )
    await sleep(delayMs, undefined, { ref: false })
  }
}

/** Whether the port could be opened: it is closed again at once. */
function probe({ listener, listen, text }: ListenerPlan & { kind: 'new' }, file: string): CommandResult {
  try {
    const fd = openListener({ name: listener, listen })
    try {
      return { success: true, log: [JSON.stringify(describePort(text, file, listener, fd))] }
    } finally {
      fd.close()
    }
  } catch (error) {
    return refusal(error instanceof Error ? error.message : String(error))
  }
}
