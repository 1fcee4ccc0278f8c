import { writeCompiledCode } from '../../compile-cache.ts'
import { setImmediate } from 'node:timers/promises'
import {
  blockSignals,
  executeInPlace,
  NativeError,
  type OwnedFd,
  watchCaughtSignals,
} from '@baton/native-sendmsg'
import { ConfigError } from '../../config/error.ts'
import { readConfigTextAtOnce } from '../../config/file.ts'
import { checkSchedules } from '../../config/schedule.ts'
import { BrokerError, describeError } from '../../errors.ts'
import { copyLimit } from '../workers/worker-copies.ts'
import type { Fleet } from '../fleet/fleet.ts'
import type { ManagerStore } from '../systemd/manager-store.ts'
import type { Notifier } from '../systemd/notify.ts'
import type { Counters } from '../workers/counters.ts'
import type { SessionHandover } from './session-handover.ts'
import type { Shifts } from '../shift/shifts.ts'
import type { FilesOnDisk } from '../files-on-disk.ts'
import { type ActiveConfig, readSettings, type Settings } from '../active-config.ts'
import type { CommandLine, InstalledProgram } from './installed-program.ts'
import type { OperationLock } from '../operation-lock.ts'
import { type ReloadRequest, requesterOf } from './reloads.ts'
import { type CheckedProgram, checkProgram } from './program-check.ts'
import { ProgramFiles } from './program-files.ts'
import type { SpareWorker } from '../workers/spare-worker.ts'
import type { WorkerPool } from '../workers/worker-pool.ts'
import type { StartLog } from '../start-log.ts'
import type { OutputKeeper } from '../../log/kept/output-keeper.ts'
import type { TicketRotation } from '../tickets/ticket-rotation.ts'
import { type Requester, descriptorsOf, type MasterState, STATE_VARIABLE, writeState } from './state.ts'
import { CARRIED_PARTS, STATE_VERSION } from '../../ipc/state-version.ts'

/** Time for kept output to be written, in ms; the rest crosses exec. And for a step that has begun to end. */
const OUTPUT_SETTLE_MS = 250
const OUTPUT_STUCK_MS = 2000

/** A signal was caught whose listener has not run yet: nothing has changed. */
const INTERRUPTED = Symbol('interrupted')

/** The last attempt is made whatever was caught: signals that never end must not keep a reload from it. */
const MAX_ATTEMPTS = 20

/** Parts of the master that both halves of a reload use. */
export interface ReloadParts {
  readonly log: StartLog
  readonly output: OutputKeeper
  readonly notifier: Notifier
  readonly store: ManagerStore
  readonly operationLock: OperationLock
  readonly activeConfig: ActiveConfig
  readonly workerPool: WorkerPool
  readonly fleet: Fleet
  readonly counters: Counters
  readonly sessionHandover: SessionHandover
  readonly shifts: Pick<Shifts, 'keepOnly'>
  readonly tickets: Pick<TicketRotation, 'update'>
  readonly files: Pick<FilesOnDisk, 'ensure'>
  readonly spare: SpareWorker
}

/** The next configuration, and the active one at the time that it was read. */
interface Candidate {
  readonly text: string
  readonly after: Settings
}

/** The rest of what crosses exec. */
type Carried = Pick<
  MasterState,
  | 'lock'
  | 'lifeline'
  | 'executions'
  | 'startedAt'
  | 'controls'
  | 'shifts'
  | 'history'
  | 'tickets'
  | 'run'
  | 'launchers'
> & {
  /** Requests for the next reload. */
  readonly waiting: readonly ReloadRequest[]
}

/**
 * The first half of a reload, in the program to be replaced: checks everything that can be refused, and executes the next program, which
 * continues in `ReloadResumption`.
 */
export class ReloadPreparation {
  readonly #parts: ReloadParts
  readonly #program: InstalledProgram
  readonly #carried: () => Carried
  readonly #stopped = new AbortController()
  readonly #programFiles = new ProgramFiles()

  /**
   * @param program looked up for each reload
   * @param carried called right before exec
   */
  constructor(parts: ReloadParts, program: InstalledProgram, carried: () => Carried) {
    this.#parts = parts
    this.#program = program
    this.#carried = carried
  }

  /** Cancels a current reload, whatever it is waiting for, because the master is stopping. */
  stop(): void {
    this.#stopped.abort()
  }

  /**
   * Does not return on success: the next program answers all of `requests`.
   *
   * @param refused receives the reason when nothing has changed
   */
  async reload(
    requests: readonly [ReloadRequest, ...ReloadRequest[]],
    refused: (log: readonly string[]) => void,
  ): Promise<void> {
    const { log, output, notifier, operationLock, workerPool, counters, files, spare } = this.#parts
    const proceed = () => {
      log.proceed()
      output.proceed()
    }
    operationLock.begin('reload')
    notifier.reloading()
    const [first] = requests
    const by = requesterOf(first)
    const joined = requests.length > 1 && { requests: requests.length }
    let why: string
    try {
      log.logger.info({ asker: first.requester.kind, by, ...joined }, 'reloading')
      workerPool.reportChange({ kind: 'reload', by, text: `${by} reloads the broker` })
      // Refuse to reload a broker that backends and operators cannot reach.
      files.ensure()
      this.#program.enterFolder()
      const next = await this.#readNext()
      const program = this.#program.forReload()
      const { problem, takes } = await this.#check(program)
      const cancelIfStopping = () => {
        if (operationLock.activity === 'reload') return false
        spare.end()
        proceed()
        refused(['the broker is stopping'])
        return true
      }
      if (cancelIfStopping()) return
      await pauseWriting(log, output)
      // Read the rest of partially received messages first.
      await workerPool.becomeQuiet()
      if (cancelIfStopping()) return
      why = problem ?? (await this.#executeQuietly(program, requests, next, takes))
      if (cancelIfStopping()) return
    } catch (error) {
      why = describeError(error)
    }
    spare.end()
    proceed()
    operationLock.end('reload')
    counters.reloaded('failure', Date.now() / 1000)
    log.logger.error({ reason: why }, 'reload failed; nothing has changed')
    workerPool.reportChange({
      kind: 'reload',
      by,
      text: `the reload failed, and nothing has changed: ${why}`,
    })
    notifier.ready(`serving; reload failed: ${why}`)
    refused(why.split('\n'))
  }

  /** @throws {ConfigError} */
  async #readNext(): Promise<Candidate> {
    const { settings, config } = this.#parts.activeConfig
    const { file } = settings
    const next = readSettings(file, readConfigTextAtOnce(file))
    await checkSchedules(file, next.config.services)
    if (next.config.runtimeDir !== config.runtimeDir) {
      throw new ConfigError(file, [
        { path: 'runtimeDir', message: 'cannot be changed by a reload; stop and start' },
      ])
    }
    return { text: next.text, after: settings }
  }

  /**
   * The program that runs this process needs no check: it has loaded, and has accepted the configuration. Its next worker loads while this
   * process executes it.
   */
  async #check(program: CommandLine): Promise<CheckedProgram> {
    const { activeConfig, spare } = this.#parts
    if (!this.#program.isRunning(program) || !this.#programFiles.areUnchanged) {
      // It runs the old program.
      spare.end()
      return checkProgram(program, activeConfig.settings.file, this.#stopped.signal)
    }
    try {
      spare.prepare()
    } catch (error) {
      // The next program starts one, or the reload fails there.
      this.#parts.log.logger.warn({ err: error }, 'a worker could not be started early')
    }
    return { problem: undefined, takes: CARRIED_PARTS }
  }

  /**
   * Blocks signals, which then wait for the next program. Those already delivered are handled in two more turns of the event
   * loop. After the last turn nothing is read until exec.
   */
  async #executeQuietly(
    program: CommandLine,
    requests: readonly ReloadRequest[],
    next: Candidate,
    takes: readonly string[],
  ): Promise<string> {
    const { workerPool, operationLock } = this.#parts
    writeCompiledCode()
    const hasCaught = await this.#watchSignals()
    const restore = blockSignals()
    try {
      for (let attempt = 1; ; attempt++) {
        do {
          await setImmediate()
          await setImmediate()
          // By now because of a signal. Workers that stop do not become quiet before the end.
          if (operationLock.activity !== 'reload') return 'the broker is stopping'
          await workerPool.becomeQuiet()
        } while (!workerPool.quiet)
        if (operationLock.activity !== 'reload') return 'the broker is stopping'
        const isInterrupted = attempt === MAX_ATTEMPTS ? undefined : hasCaught
        const why = this.#execute(program, requests, next, takes, isInterrupted)
        // Its listeners run in the next turn.
        if (why !== INTERRUPTED) return why
      }
    } finally {
      restore()
    }
  }

  /** The pipe of signals is not found while one is in it: it is read in two turns of the event loop at most. */
  async #watchSignals(): Promise<(() => boolean) | undefined> {
    for (let attempt = 1; attempt < MAX_ATTEMPTS; attempt++) {
      const hasCaught = watchCaughtSignals()
      if (hasCaught !== undefined) return hasCaught
      await setImmediate()
      await setImmediate()
    }
    return undefined
  }

  /** Executes the next program. Returns only on failure, with the reason, and if `isInterrupted`. */
  #execute(
    { node, args }: CommandLine,
    requests: readonly ReloadRequest[],
    next: Candidate,
    takes: readonly string[],
    isInterrupted: (() => boolean) | undefined,
  ): string | typeof INTERRUPTED {
    const { notifier, activeConfig, workerPool, counters, sessionHandover, store, spare } = this.#parts
    const { settings } = activeConfig
    const { file, text } = settings
    // `baton run` has opened another port meanwhile, and has written that down.
    const candidate = settings === next.after ? next.text : text
    const { waiting, ...carried } = this.#carried()
    const askers = requests.map((request) => this.#carryOver(request))
    const later = waiting.map((request) => this.#carryOver(request))
    let written: OwnedFd | undefined
    try {
      const fleet = this.#parts.fleet.serialize()
      // Else they are sent again: the next program needs descriptors of its own.
      const carriesCopies = takes.includes('copies') && workerPool.copies <= copyLimit()
      const state: MasterState = {
        ...carried,
        version: STATE_VERSION,
        program: this.#program.names,
        file,
        text,
        candidate,
        sockets: activeConfig.sockets.state,
        pair: sessionHandover.numbers,
        workers: [...workerPool.workers].map((worker) => worker.stateWith(carriesCopies)),
        known: workerPool.known,
        survivors: workerPool.carrySurvivors(),
        finishing: workerPool.finishing.state,
        started: workerPool.started,
        counters: counters.state,
        fleet: fleet.state,
        log: this.#parts.log.state,
        output: this.#parts.output.state,
        store: store.state,
        ...(spare.state && { spare: spare.state }),
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
        isInterrupted,
      })
      return 'execve returned'
    } catch (error) {
      // The pair holds duplicates; the sessions still have their own descriptors.
      for (const { kind } of [...askers, ...later])
        if (kind === 'session') sessionHandover.receiveSession().close()
      if (error instanceof NativeError && error.code === 'EINTR') return INTERRUPTED
      return describeError(error)
    } finally {
      written?.close()
    }
  }

  /** @returns the requester for the next program: a signal, which gets no answer, if the session is closed or cannot be sent */
  #carryOver({ requester, session }: ReloadRequest): Requester {
    if (requester.kind !== 'session') return requester
    if (session?.open !== true) return { kind: 'signal' }
    try {
      this.#parts.sessionHandover.sendSession(session)
      return requester
    } catch (error) {
      // The reload continues, and this session gets no answer.
      this.#parts.log.logger.error({ err: error }, "cannot pass the requester's session to the next program")
      session.close()
      return { kind: 'signal' }
    }
  }
}

/**
 * Resolves when what is pending is written, or is not accepted for now. Exec would cut a write short, or wait for one that is stuck.
 *
 * @throws {BrokerError} BATON_ERR_LOG_STUCK
 */
async function pauseWriting(log: StartLog, output: OutputKeeper): Promise<void> {
  const [, paused] = await Promise.all([log.pause(), output.pause(OUTPUT_SETTLE_MS, OUTPUT_STUCK_MS)])
  if (paused) return
  const why = `a file of kept output has been blocked for ${OUTPUT_STUCK_MS} ms`
  throw new BrokerError('BATON_ERR_LOG_STUCK', why)
}
