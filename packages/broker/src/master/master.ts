import { lockFile, OwnedFd, Poller, setCloseOnExec } from '@baton/native-sendmsg'
import type { BackendReport, FromWorker } from '../channel/messages.ts'
import { readConfigText } from '../config/index.ts'
import type { CommandError } from '../cli/terminal.ts'
import { BrokerError } from '../errors.ts'
import type { Change } from '../events/index.ts'
import { Fleet, type FleetOptions, Lifeline, systemFleetOs } from '../fleet/index.ts'
import { prepareRuntimeDir } from '../sockets.ts'
import type { GivenSockets, Notifier } from '../systemd/index.ts'
import { BROKER_VERSION } from '../version.ts'
import { AfterExec } from './after-exec.ts'
import { AppRun } from './app-run.ts'
import { BeforeExec } from './before-exec.ts'
import { answerText, type Commanded, obey } from './commands.ts'
import { Counters } from './counters.ts'
import { Crossing } from './crossing.ts'
import { Deployer } from './deployer.ts'
import { FilesOnDisk, lockPath } from './files-on-disk.ts'
import { controlPath, HeldSockets } from './held-sockets.ts'
import { assign, InForce, readSettings, restoreSettings } from './in-force.ts'
import { Occupation } from './occupation.ts'
import type { InstalledProgram } from './installed-program.ts'
import { Operator } from './operator.ts'
import { type ReloadRequest, Reloads } from './reloads.ts'
import { Roster } from './roster.ts'
import { StopReport } from './stop-report.ts'
import type { StartLog } from './start-log.ts'
import { logStatus } from './status-log.ts'
import { descriptorsOf, type MasterState, type RunState } from './state.ts'
import type { WorkerProcess } from './worker-process.ts'

/** What a master has when it begins, whether it opened it or was left it. */
interface Belongings {
  readonly inForce: InForce
  readonly lock: OwnedFd
  readonly lifeline: Lifeline
  readonly crossing: Crossing
  readonly counters: Counters
  readonly startedAt: string
  readonly executions: number
  readonly workersStarted: number
  readonly run: RunState | undefined
}

export interface MasterOptions {
  readonly log: StartLog
  /** This program, to be executed again. */
  readonly program: InstalledProgram
  /** Under `baton run`. */
  readonly run?: RunState | undefined
  /** Hears how it goes. The master closes it. */
  readonly notifier: Notifier
  /** Sockets that the service manager has opened: what fits is taken out. */
  readonly given?: GivenSockets | undefined
}

/**
 * The process that keeps what must not be lost when code is replaced: every listening socket, the operator's sessions, the worker
 * processes. It accepts no client.
 *
 * `running` -> `reloading` -> (this program replaced by the new one) -> `reloading` -> `running`; `stopping` from anywhere.
 * Owner of its parts: each of them owns what it is named for.
 */
export class Master {
  readonly #log: StartLog
  readonly #notifier: Notifier
  readonly #poller = new Poller()
  readonly #lifeline: Lifeline
  readonly #startedAt: string
  readonly #executions: number
  readonly #occupation = new Occupation()
  readonly #inForce: InForce
  readonly #files: FilesOnDisk
  readonly #roster: Roster
  readonly #fleet: Fleet
  readonly #operator: Operator
  readonly #crossing: Crossing
  readonly #deployer: Deployer
  readonly #appRun: AppRun
  readonly #beforeExec: BeforeExec
  readonly #afterExec: AfterExec
  readonly #reloads: Reloads
  /** The reload that the program before this one began: until it is answered, and until it is decided what is in force. */
  #finishing: Promise<void> | undefined
  #decided: Promise<void> | undefined
  #stopped: Promise<void> | undefined
  #failure: CommandError | undefined
  /** Resolves when it has stopped, whoever asked for it. */
  readonly stopped: Promise<void>
  #ended!: () => void

  /**
   * Opens everything and starts the first worker; resolves when clients are accepted.
   *
   * @throws {ConfigError}
   * @throws {BrokerError} BATON_ERR_ALREADY_RUNNING, BATON_ERR_LISTEN, BATON_ERR_RUNTIME_DIR, BATON_ERR_WORKER_FAILED
   * @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN
   * @throws {NativeError} the pair cannot be made
   */
  static async start(file: string, options: MasterOptions): Promise<Master> {
    const settings = readSettings(file, readConfigText(file))
    const { config } = settings
    prepareRuntimeDir(config)
    const lock = lockFile(lockPath(config))
    if (lock === undefined) throw new BrokerError('BATON_ERR_ALREADY_RUNNING', controlPath(config))
    let inForce: InForce
    try {
      inForce = new InForce(settings, HeldSockets.open(config, options.given))
    } catch (error) {
      lock.close()
      throw error
    }
    let master: Master
    try {
      master = new Master(
        {
          inForce,
          lock,
          lifeline: new Lifeline(),
          crossing: Crossing.open(),
          counters: new Counters(undefined, () => options.log.dropped),
          startedAt: new Date().toISOString(),
          executions: 0,
          workersStarted: 0,
          run: options.run,
        },
        options,
      )
    } catch (error) {
      inForce.close()
      lock.close()
      throw error
    }
    try {
      await master.#roster.start()
      master.#fleet.apply(inForce.fleetConfig)
      master.#appRun.begin()
    } catch (error) {
      master.kill()
      master.#release()
      throw error
    }
    master.#occupation.end('start')
    options.notifier.ready('serving')
    master.#files.start()
    master.#appRun.watch()
    return master
  }

  /** Continues where the program that this one has replaced left off: begins to finish the reload, see `finished`. */
  static resume(state: MasterState, options: MasterOptions): Master {
    // They crossed exec; no child is to have them.
    for (const fd of descriptorsOf(state)) setCloseOnExec(fd, true)
    options.notifier.watch()
    const counters = new Counters(state.counters, () => options.log.dropped)
    const settings = restoreSettings(state.file, state.text)
    const master = new Master(
      {
        inForce: new InForce(settings, HeldSockets.restore(state.sockets, settings.config)),
        lock: new OwnedFd(state.lock),
        lifeline: new Lifeline(state.lifeline),
        crossing: Crossing.restore(state.pair),
        counters,
        startedAt: state.startedAt,
        executions: state.executions,
        workersStarted: state.started,
        run: state.run ?? undefined,
      },
      options,
      state.fleet,
    )
    master.#roster.takeOver(state.workers, state.known)
    master.#files.start()
    master.#decided = new Promise((decided) => {
      master.#finishing = master.#afterExec.finish(state, decided).then(() => master.#appRun.watch())
    })
    return master
  }

  private constructor(belongings: Belongings, { log, program, notifier }: MasterOptions, fleet?: unknown) {
    const { inForce, lock, lifeline, crossing, counters, startedAt, executions, workersStarted, run } =
      belongings
    this.stopped = new Promise((resolve) => (this.#ended = resolve))
    this.#log = log
    this.#notifier = notifier
    this.#inForce = inForce
    this.#lifeline = lifeline
    this.#crossing = crossing
    this.#startedAt = startedAt
    this.#executions = executions
    const { logger } = log
    const host = {
      assignment: () => assign(inForce.settings, inForce.sockets, log.format),
      message: (worker: WorkerProcess, message: FromWorker) => this.#heard(worker, message),
      ended: () => this.#fleet.lost(this.#backends()),
      workerTimeout: () => inForce.config.workerTimeout,
      node: (failures: number) => {
        program.leaveRemovedFolder()
        return program.nodeForWorker(failures)
      },
      // One that goes on brings a worker of the program that is installed now.
      programGone: () => void (this.#occupation.activity === 'reload' || this.reload()),
      managed: () => this.#fleet.managed(),
    }
    this.#roster = new Roster(this.#poller, counters, host, logger, workersStarted)
    const roster = this.#roster
    const fleetOptions: FleetOptions = {
      logger,
      os: systemFleetOs(this.#poller, lifeline),
      socket: controlPath(inForce.config),
      env: process.env,
      master: lifeline.environment,
      // When the fleet has settled what changes: a process is in its place only after it was started.
      changed: () => queueMicrotask(() => roster.tellManaged()),
      // Of a service that a reload removed only the worker that leaves knows.
      drain: (service, backend, deadline) => {
        for (const worker of roster.workers) worker.send({ type: 'drain', service, backend, deadline })
      },
      // Under `baton run` the app is told that it has not listened. What listens by itself is an upstream.
      registrable:
        run === undefined
          ? (service) =>
              roster.current !== undefined && inForce.config.services.get(service)?.upstreams.length === 0
          : undefined,
      exited: (process, exit) => this.#appRun.exited(process, exit),
    }
    this.#fleet = fleet === undefined ? new Fleet(fleetOptions) : Fleet.restore(fleet, fleetOptions)
    this.#operator = new Operator(inForce.sockets.operator.fd, this.#poller, {
      command: (session, words) => obey(session, words, this.#commanded),
    })
    this.#files = new FilesOnDisk(lock, {
      inForce,
      roster,
      operator: this.#operator,
      counters,
      logger,
      ownsFile: run !== undefined,
    })
    const parts = {
      log,
      logger,
      notifier,
      occupation: this.#occupation,
      inForce,
      roster,
      fleet: this.#fleet,
      counters,
      crossing,
      files: this.#files,
      tell: (change: Change) => roster.current?.send({ type: 'changed', change }),
    }
    this.#deployer = new Deployer(parts)
    this.#appRun = new AppRun(run, {
      ...parts,
      deployer: this.#deployer,
      poller: this.#poller,
      stop: (reason, failure) => {
        this.#failure ??= failure
        void this.stop(reason)
      },
    })
    this.#beforeExec = new BeforeExec(parts, program, () => ({
      lock: this.#files.lock,
      lifeline: lifeline.state,
      executions: executions + 1,
      startedAt,
      run: this.#appRun.state ?? null,
      waiting: this.#reloads.waiting,
    }))
    this.#reloads = new Reloads(parts, ([first, ...others]) => {
      if (first !== undefined) void this.#reloadFor([first, ...others])
    })
    this.#afterExec = new AfterExec(parts, this.#operator, this.#reloads)
  }

  /** Why it stops, when that is a failure of the app under `baton run`. */
  get failure(): CommandError | undefined {
    return this.#failure
  }

  /** Resolves when no reload of the program before this one is left to finish; rejects when that is impossible. */
  get finished(): Promise<void> {
    return this.#finishing ?? Promise.resolve()
  }

  /** For SIGHUP: only the log says how it went. */
  reload(): void {
    this.#reloads.ask({ asker: { kind: 'signal' }, session: undefined }, true)
  }

  #reloadFor(requests: readonly [ReloadRequest, ...ReloadRequest[]]): Promise<void> {
    return this.#beforeExec.reload(requests, (log) => {
      for (const request of requests) this.#reloads.answer(request, { success: false, log })
    })
  }

  /** The log file was opened again: the workers write to it, too. `stdout` is borrowed. */
  reopenLog(stdout: number): void {
    for (const worker of this.#roster.workers) worker.send({ type: 'log' }, [stdout])
  }

  /** For SIGUSR2: what `status` answers goes to the log, and each worker adds what it knows. */
  logStatus(): void {
    logStatus(this.#log.logger, this.#status(), this.#reloads.waiting.length)
    for (const worker of this.#roster.workers) worker.send({ type: 'dump' })
  }

  /** Files have changed (`baton run --watch`). */
  redeploy(): void {
    this.#appRun.redeploy()
  }

  /** Drains for at most the configured time; resolves when every process that this one started has ended. */
  stop(reason: string, by?: string): Promise<void> {
    return (this.#stopped ??= this.#stop(reason, by))
  }

  /** Ends everything at once. */
  kill(): void {
    this.#roster.kill()
    this.#fleet.close()
  }

  /** From now on what is removed from disk is not created again. */
  leaveFiles(): void {
    this.#files.close()
  }

  async #stop(reason: string, by?: string): Promise<void> {
    this.#appRun.end()
    // A reload that has replaced the program is finished first, less the wait for backends; one that has not gives way.
    this.#roster.hurry()
    await this.#finishing
    this.#occupation.begin('stop')
    this.#beforeExec.stop()
    const { drainDeadline } = this.#inForce.config
    this.#notifier.stopping(drainDeadline)
    this.#log.logger.info({ signal: reason, by, deadlineMs: drainDeadline }, 'draining')
    const end = performance.now() + drainDeadline
    const report = new StopReport(this.#inForce.sockets, this.#roster, this.#fleet, end, (line) => {
      this.#log.logger.info(line)
      this.#operator.tell(line)
    })
    this.#inForce.sockets.closeListeners()
    // Those who wait may still be taken by a backend, so the backends go last.
    await this.#roster.stop(drainDeadline)
    this.#fleet.reported([])
    await this.#fleet.stop(Math.max(0, end - performance.now()))
    report.end()
    this.#log.logger.info('stopped')
    this.#operator.finish(answerText(true, []))
    this.#release()
  }

  #release(): void {
    this.#notifier.close()
    this.#operator.close()
    this.#inForce.close()
    this.#crossing.close()
    this.#lifeline.close()
    this.#files.close()
    this.#poller.close()
    this.#ended()
  }

  readonly #commanded: Commanded = {
    status: () => this.#status(),
    deploy: (command) => this.#deployer.deploy(command),
    listen: async (request) => {
      await this.#decided
      return this.#appRun.listen(request)
    },
    reload: (session, wait) => this.#reloads.ask({ asker: { kind: 'session' }, session }, wait),
    stop: (session) => {
      void this.stop('asked by the operator', session.peer)
      this.#operator.awaitEnd(session)
    },
  }

  #heard(worker: WorkerProcess, message: FromWorker): void {
    if (message.type === 'backends') {
      const backends = this.#backends()
      if (worker.role === 'leaving') this.#fleet.lost(backends)
      // Without a worker that serves nobody knows anything.
      if (this.#roster.current !== undefined) {
        this.#fleet.reported(backends)
        this.#appRun.reported(backends)
      }
    }
    if (worker === this.#roster.current) this.#notifier.workerHeard()
    if (message.type === 'collect') void this.#answerMetrics(worker, message.ask)
    if (message.type === 'reload') {
      const { ask, by, wait = true } = message
      const asker = { kind: 'worker', worker: worker.number, ask, by } as const
      this.#reloads.ask({ asker, session: undefined }, wait)
    }
  }

  /** All that any worker lists: during a reload a backend is with two. */
  #backends(): BackendReport[] {
    return [...this.#roster.workers].flatMap(({ backends }) => backends)
  }

  async #answerMetrics(worker: WorkerProcess, ask: number): Promise<void> {
    worker.send({ type: 'metrics', ask, snapshots: await this.#roster.snapshots(worker) })
  }

  #status() {
    return {
      master: {
        pid: process.pid,
        version: BROKER_VERSION,
        startedAt: this.#startedAt,
        reloads: this.#executions,
        busy: this.#occupation.activity ?? null,
      },
      managed: this.#fleet.statuses(),
      workers: [...this.#roster.workers].map(({ pid, role }) => ({
        pid,
        role: pid === this.#roster.current?.pid ? 'serving' : role === 'leaving' ? 'leaving' : 'starting',
      })),
    }
  }
}
