import type { OwnedFd, Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import type { CommandError } from '../../exit-codes.ts'
import type { BackendReport, Fleet, ManagedProcess, ProcessExit } from '../fleet/index.ts'
import { openListener } from '../../listening/sockets.ts'
import { type CommandResult, refusal, type PortRequest } from '../../ipc/operator-protocol.ts'
import type { Deployer } from '../deploy/deployer.ts'
import { type Launcher, watchLaunchers } from './launchers.ts'
import type { OperationLock } from '../operation-lock.ts'
import { type ActiveConfig, readSettings } from '../active-config.ts'
import { type PortAssignments, planListener, describePort, writeDown } from './port-assignments.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { StartHistory } from './start-history.ts'
import { StartWatch } from './start-watch.ts'

/** What `baton run` was told, and has come to know of its app. */
export interface RunState {
  readonly claims: PortAssignments
  /** The folder whose changes redeploy the app; null when none. */
  readonly watch: string | null
  /** Made for this run, and to be removed with it. */
  readonly folder: string
  /** `always`: an app that does not start is tried for ever. Absent in the state of an older version: the same. */
  readonly restart?: 'limited' | 'always'
  /** What the app's starts came to so far. */
  readonly starts?: StartHistory
  /** Changes of files after that, in milliseconds since the Unix epoch, are still to be deployed. Absent at the start. */
  readonly watchedUntil?: number
  /** What ran this program; it ends with them. */
  readonly launchers?: readonly Launcher[]
}

/** A change of a file may not have been heard of after so long, in milliseconds: `watchFolder` waits for its last one. */
const WATCH_DELAY_MS = 1000

/** What of a master an app deals with. */
export interface AppRunParts {
  readonly activeConfig: ActiveConfig
  readonly workerPool: Pick<WorkerPool, 'listen'>
  readonly deployer: Pick<Deployer, 'deploy'>
  readonly operationLock: Pick<OperationLock, 'idle'>
  readonly logger: Logger
  readonly fleet: Pick<Fleet, 'statuses'>
  readonly poller: Poller
  /** Stops the broker: for no fault, or with one that is the end of the command. */
  readonly stop: (reason: string, failure?: CommandError) => void
}

/**
 * What `baton run` adds to a master: the ports that the app listens on become listeners of the configuration, changed files a
 * deploy, an app that does not start the end of the broker, and so does the end of what has run it. Under `baton start` there is
 * nothing to it.
 *
 * Owner of what the app has claimed.
 */
export class AppRun {
  readonly #parts: AppRunParts
  #state: RunState | undefined
  #changed = false
  #redeploying = false
  #over = false
  readonly #starts: StartWatch | undefined
  #unwatch: (() => void) | undefined

  /** @param state undefined under `baton start` */
  constructor(state: RunState | undefined, parts: AppRunParts) {
    this.#state = state
    this.#parts = parts
    if (state === undefined) return
    const { activeConfig, fleet, logger, stop } = parts
    const policy = state.restart !== 'limited' ? 'always' : state.watch === null ? 'limited' : 'first'
    this.#starts = new StartWatch(policy, state.starts, {
      minHealthy: () => managedService(activeConfig)?.minHealthy ?? 0,
      statuses: () => fleet.statuses(),
      ports: () => Object.keys(this.#state?.claims ?? {}),
      warn: (instance, text) => logger.warn({ instance }, text),
      giveUp: (error) => stop('the app does not start', error),
    })
  }

  get state(): RunState | undefined {
    const watchedUntil = this.#changed ? 0 : Date.now() - WATCH_DELAY_MS
    return (
      this.#state && { ...this.#state, ...(this.#starts && { starts: this.#starts.history }), watchedUntil }
    )
  }

  /** The app's processes were started. */
  begin(): void {
    this.#starts?.begin()
  }

  /** The broker serves: the end of what has started it is the end of it. */
  watch(): void {
    const { poller, stop } = this.#parts
    if (this.#over || this.#state?.launchers === undefined) return
    this.#unwatch = watchLaunchers(this.#state.launchers, poller, ({ name, pid }) =>
      stop(`${name.trim()} (pid ${pid}), which started it, has ended`),
    )
  }

  reported(reports: readonly BackendReport[]): void {
    this.#starts?.reported(reports)
  }

  exited(process: ManagedProcess, exit: ProcessExit): void {
    if (!this.#over) this.#starts?.exited(process, exit)
  }

  /** A port that the app listens on. Each of its processes asks for the same ones. */
  async listen(request: PortRequest): Promise<CommandResult> {
    const { activeConfig, workerPool, logger } = this.#parts
    const { file, text } = activeConfig.settings
    if (this.#state === undefined) return refusal(`listeners are those of ${file}`)
    const decision = planListener(text, this.#state.claims, request)
    const claims = { ...this.#state.claims, [String(request.port)]: decision.listener }
    if (decision.kind === 'new') {
      let fd: OwnedFd
      try {
        fd = openListener({ name: decision.listener, listen: decision.listen })
      } catch (error) {
        return refusal(error instanceof Error ? error.message : String(error))
      }
      const sockets = activeConfig.sockets.add(decision.listener, fd, decision.listen)
      activeConfig.replace(readSettings(file, decision.text), sockets)
      writeDown(file, decision.text)
      this.#state = { ...this.#state, claims }
      await workerPool.listen(decision.listener, decision.parts, fd)
    }
    this.#state = { ...this.#state, claims }
    const held = activeConfig.sockets.listeners.get(decision.listener)
    if (held === undefined || held.fd.closed) return refusal('the broker stops')
    const opened = describePort(activeConfig.settings.text, file, decision.listener, held.fd)
    if (decision.kind === 'new') logger.info(opened, 'listening for the app')
    return { success: true, log: [JSON.stringify(opened)] }
  }

  /** Files have changed: a deploy, once nothing else goes on, and another one when they change during it. */
  redeploy(): void {
    this.#changed = true
    if (!this.#redeploying) void this.#redeploy()
  }

  /** The master stops: no deploy begins any more. */
  end(): void {
    this.#over = true
    this.#starts?.end()
    this.#unwatch?.()
  }

  async #redeploy(): Promise<void> {
    this.#redeploying = true
    const { activeConfig, deployer, operationLock, logger } = this.#parts
    while (this.#changed && !this.#over) {
      await operationLock.idle()
      this.#changed = false
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
}

/** The service whose processes Baton runs; those of the app's other ports have none of their own. */
function managedService({ config }: ActiveConfig) {
  return [...config.services.values()].find(({ command }) => command !== null)
}
