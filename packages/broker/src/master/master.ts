import { dup, NativeError, Poller } from '@baton/native-sendmsg'
import type { BackendReport, FromWorker } from '../ipc/messages.ts'
import { extended, type History } from '../api/history.ts'
import { keptOutputOf, longestDrainDeadline } from '../config/service-rules.ts'
import { readConfigText } from '../config/file.ts'
import { checkSchedules } from '../config/schedule.ts'
import type { CommandError } from '../exit-codes.ts'
import { Fleet, type FleetOptions } from './fleet/fleet.ts'
import { OutputKeeper } from '../log/kept/output-keeper.ts'
import { Lifeline } from '../supervise/lifeline.ts'
import { systemFleetOs } from './fleet/os.ts'
import { AgentCheck } from '../listening/agent-check.ts'
import { ManagerStore } from './systemd/manager-store.ts'
import type { Notifier } from './systemd/notify.ts'
import { BROKER_VERSION } from '../version.ts'
import { LateParts } from './late-parts.ts'
import {
  closeInit,
  inheritedState,
  lockRuntimeDir,
  type MasterInit,
  type MasterOptions,
  opened,
  restored,
} from './master-init.ts'
import { ReloadResumption } from './reload/resume.ts'
import { AppRun } from './run/app-run.ts'
import { LauncherWatch } from './run/launchers.ts'
import { ReloadPreparation } from './reload/prepare.ts'
import { brokerFacts } from './broker-facts.ts'
import type { OperatorCommands } from './operator/commands.ts'
import { answerText, type CommandResult } from '../ipc/operator-protocol.ts'
import { type ShiftRequest, Shifts } from './shift/shifts.ts'
import { TicketRotation } from './tickets/ticket-rotation.ts'
import { SessionHandover } from './reload/session-handover.ts'
import { Deployer } from './deploy/deployer.ts'
import { FilesOnDisk } from './files-on-disk.ts'
import { KeptControls } from './kept-controls.ts'
import { controlPath, ListeningSockets, operatorPath } from './listening-sockets.ts'
import { ActiveConfig, readSettings } from './active-config.ts'
import { claimWorker, type Inheritance } from './claim/claim.ts'
import { OperationLock } from './operation-lock.ts'
import { Orphans } from './orphans.ts'
import { Operator } from './operator/operator.ts'
import { type ReloadRequest, Reloads } from './reload/reloads.ts'
import { WorkerPool } from './workers/worker-pool.ts'
import { takeEarlyWorker } from './early-worker.ts'
import { SpareWorker } from './workers/spare-worker.ts'
import { StartedWorker } from './workers/started-worker.ts'
import { StopReport } from './stop-report.ts'
import type { StartLog } from './start-log.ts'
import type { MasterState } from './reload/state.ts'
import type { WorkerProcess } from './workers/worker-process.ts'

/** Timeout for processes that backends have left in a container, in ms: most container runtimes kill everything after 10 s. */
const ORPHANS_TIMEOUT_MS = 3000

/**
 * The process that keeps what must not be lost when code is replaced: every listening socket, the operators' sessions, the worker
 * processes. It accepts no clients.
 *
 * `running` -> `reloading` -> (exec of the new program) -> `reloading` -> `running`; `stopping` from any state.
 * Owner of its parts, each of which owns what it is named after.
 */
export class Master {
  readonly #log: StartLog
  readonly #notifier: Notifier
  readonly #store: ManagerStore
  readonly #poller: Poller
  readonly #lifeline: Lifeline
  readonly #startedAt: string
  readonly #executions: number
  readonly #controls: KeptControls
  readonly #operationLock = new OperationLock()
  readonly #activeConfig: ActiveConfig
  readonly #files: FilesOnDisk
  readonly #workerPool: WorkerPool
  readonly #spare: SpareWorker
  readonly #fleet: Fleet
  readonly #output: OutputKeeper
  /** As the workers that serve have reported it. */
  #history: History
  readonly #operator: Operator
  readonly #orphans: Orphans
  readonly #sessionHandover: SessionHandover
  readonly #shifts: Shifts
  readonly #tickets: TicketRotation
  readonly #deployer: Deployer
  readonly #late: LateParts
  readonly #appRun: AppRun
  readonly #launchers: LauncherWatch
  readonly #beforeExec: ReloadPreparation
  readonly #afterExec: ReloadResumption
  readonly #reloads: Reloads
  /** The reload to finish after exec: until it is answered, and until it is known which configuration is active. */
  #finishing: Promise<void> | undefined
  #decided: Promise<void> | undefined
  #stopped: Promise<void> | undefined
  #failure: CommandError | undefined
  /** While backends finish. */
  #agentCheck: AgentCheck | undefined
  /** Resolves when the master has stopped, for whatever reason. */
  readonly stopped: Promise<void>
  #ended!: () => void

  /**
   * Opens everything and starts the first worker. Resolves when it accepts clients.
   *
   * @throws {ConfigError}
   * @throws {BrokerError} BATON_ERR_ALREADY_RUNNING, BATON_ERR_LISTEN, BATON_ERR_RUNTIME_DIR, BATON_ERR_WORKER_FAILED,
   *   BATON_ERR_WORKER_UNCLAIMED, BATON_ERR_BACKEND_FOLDER
   * @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN
   * @throws {NativeError} the pair for sessions cannot be created
   */
  static async start(file: string, options: MasterOptions): Promise<Master> {
    const settings = readSettings(file, readConfigText(file))
    await checkSchedules(file, settings.config.services)
    const lock = lockRuntimeDir(settings)
    let inheritance: Inheritance | undefined
    try {
      inheritance = options.run === undefined ? await claimWorker(operatorPath(settings.config)) : undefined
    } catch (error) {
      lock.close()
      throw error
    }
    if (inheritance !== undefined)
      return Master.#takeOver(inheritedState(inheritance, settings, lock), options)
    const init = await opened(settings, lock, options)
    const { store, activeConfig } = init
    const { given } = options
    let master: Master
    try {
      master = new Master(init, options)
    } catch (error) {
      closeInit(init)
      throw error
    }
    try {
      master.#workerPool.inherit(store.restore(given?.takeStored() ?? []))
      const serving = master.#workerPool.start()
      master.#decided = serving
      // An app takes as long to load as a worker. Services with more processes would delay the worker, for which clients wait.
      if (options.run === undefined) await serving
      master.#fleet.apply(activeConfig.fleetConfig)
      master.#appRun.begin()
      await serving
    } catch (error) {
      master.kill()
      master.#close()
      throw error
    }
    master.#operationLock.end('start')
    options.notifier.ready('serving')
    store.open()
    master.#files.start()
    master.#launchers.begin()
    await master.#late.keepUp()
    return master
  }

  /**
   * Goes on where a master that was killed has left its worker, with the configuration that was active, and replaces that worker like a reload: by
   * one of this version, with the current configuration.
   */
  static async #takeOver(state: MasterState, options: MasterOptions): Promise<Master> {
    const master = Master.resume(state, options)
    // It may have one of a canary, which does not go on.
    master.#workerPool.orders.sendShifts()
    // Its output goes where this process's goes.
    master.reopenLog(process.stdout.fd)
    await master.#decided
    return master
  }

  /** Resumes a master after exec, and begins to finish the reload (see `finished`). */
  static resume(state: MasterState, options: MasterOptions): Master {
    const init = restored(state, options)
    const { poller, store } = init
    const { given } = options
    const master = new Master(init, options, state.fleet)
    // Before the copies of a worker that lives are stored again.
    if (given !== undefined) master.#workerPool.inherit(store.restore(given.takeStored()))
    master.#workerPool.finishing.adopt(state.finishing ?? [], new Set(state.workers.map(({ pid }) => pid)))
    master.#workerPool.adopt(state.workers, state.known, state.survivors)
    master.#spare.adopt(state.spare, poller)
    store.open()
    master.#files.start()
    master.#decided = new Promise((decided) => {
      master.#finishing = master.#afterExec.finish(state, decided).then(() => {
        master.#launchers.begin()
        return master.#late.keepUp()
      })
    })
    return master
  }

  private constructor(init: MasterInit, { log, program, notifier }: MasterOptions, fleet?: unknown) {
    const {
      poller,
      store,
      activeConfig,
      lock,
      lifeline,
      sessionHandover,
      counters,
      startedAt,
      executions,
      workersStarted,
      run,
      shifts,
      output,
      history = {},
      tickets,
    } = init
    this.#history = history
    this.stopped = new Promise((resolve) => (this.#ended = resolve))
    this.#log = log
    this.#poller = poller
    this.#store = store
    this.#notifier = notifier
    this.#activeConfig = activeConfig
    this.#lifeline = lifeline
    this.#sessionHandover = sessionHandover
    this.#startedAt = startedAt
    this.#executions = executions
    this.#controls = new KeptControls(init.controls ?? [], (name) => activeConfig.config.services.has(name))
    const { logger } = log
    const startWorker = (failures: number) => {
      program.enterExistingFolder()
      return StartedWorker.start(program.nodeForWorker(failures), log.format)
    }
    const spare = new SpareWorker(() => startWorker(0), takeEarlyWorker())
    this.#spare = spare
    const host = {
      message: (worker: WorkerProcess, message: FromWorker) => this.#received(worker, message),
      awake: () => this.#files.awake(),
      ended: (served: boolean) => this.#fleet.lost(this.#backends(), served),
      startWorker: (failures: number) => spare.take() ?? startWorker(failures),
      // A reload that is already running starts a worker of the installed program anyway.
      programGone: () => void (this.#operationLock.activity === 'reload' || this.reload()),
      managed: () => this.#fleet.managed(),
      // Under `baton run`, everything ends with the command.
      estate: () =>
        run === undefined
          ? {
              fleet: this.#fleet.estate(),
              lifeline: lifeline.state,
              controls: this.#controls.all,
              shifts: this.#shifts.state,
              tickets: this.#tickets.state,
            }
          : undefined,
      controls: () => this.#controls.all,
      shifts: () => this.#shifts.state,
      history: () => this.#history,
      tickets: () => this.#tickets.keys,
      changed: () => store.keepListening(activeConfig.sockets.own),
    }
    const { copies } = store
    this.#workerPool = new WorkerPool(poller, activeConfig, counters, logger, workersStarted, host, copies)
    const workerPool = this.#workerPool
    this.#shifts = new Shifts(
      {
        services: () => activeConfig.config.services,
        logger,
        counters,
        changed: () => workerPool.orders.sendShifts(),
        announce: (change) => workerPool.reportChange(change),
      },
      shifts,
    )
    this.#output = new OutputKeeper(
      {
        runtimeDir: activeConfig.config.runtimeDir,
        limits: (service) => keptOutputOf(activeConfig.config, service),
        logger,
      },
      output,
    )
    log.countDropped(this.#output)
    this.#tickets = new TicketRotation(
      () => activeConfig.config.services,
      () => workerPool.orders.sendTickets(),
      tickets,
      logger,
    )
    const fleetOptions: FleetOptions = {
      logger,
      output: this.#output,
      os: systemFleetOs(this.#poller, lifeline),
      socket: controlPath(activeConfig.config),
      env: process.env,
      master: lifeline.environment,
      // Deferred until the fleet has made the change: an instance has its process only after the start.
      changed: () =>
        queueMicrotask(() => {
          workerPool.orders.sendManaged()
          workerPool.sendEstate()
        }),
      workers: workerPool.orders,
      // Not under `baton run`, where `StartWatch` warns about an app that does not listen. The process of a service with upstreams
      // listens itself, without registering.
      registrable:
        run === undefined
          ? (service) =>
              workerPool.current !== undefined &&
              activeConfig.config.services.get(service)?.upstreams.length === 0
          : undefined,
      exited: (process, exit) => this.#appRun.exited(process, exit),
    }
    this.#fleet = fleet === undefined ? new Fleet(fleetOptions) : Fleet.restore(fleet, fleetOptions)
    this.#orphans = new Orphans(logger)
    this.#orphans.start()
    this.#operator = new Operator(activeConfig.sockets.operator.fd, this.#poller, this.#commanded)
    this.#files = new FilesOnDisk(lock, {
      activeConfig,
      workerPool,
      operator: this.#operator,
      counters,
      logger,
      ownsFile: run !== undefined,
    })
    const parts = {
      log,
      output: this.#output,
      logger,
      notifier,
      store,
      operationLock: this.#operationLock,
      activeConfig,
      workerPool,
      fleet: this.#fleet,
      counters,
      sessionHandover,
      shifts: this.#shifts,
      tickets: this.#tickets,
      files: this.#files,
      spare,
    }
    this.#deployer = new Deployer(parts)
    this.#late = new LateParts(parts)
    this.#appRun = new AppRun(run, {
      ...parts,
      deployer: this.#deployer,
      stop: (reason, failure) => {
        this.#failure ??= failure
        void this.stop(reason)
      },
    })
    this.#launchers = new LauncherWatch(init.launchers, this.#poller, (reason) => void this.stop(reason))
    this.#beforeExec = new ReloadPreparation(parts, program, () => ({
      lock: this.#files.lock,
      lifeline: lifeline.state,
      executions: executions + 1,
      startedAt,
      shifts: this.#shifts.state,
      history: this.#history,
      tickets: this.#tickets.state,
      run: this.#appRun.state ?? null,
      launchers: this.#launchers.launchers,
      waiting: this.#reloads.waiting,
      controls: this.#controls.all,
    }))
    this.#reloads = new Reloads(this.#operationLock, workerPool, logger, ([first, ...others]) => {
      if (first !== undefined) void this.#reloadFor([first, ...others])
    })
    this.#afterExec = new ReloadResumption(parts, this.#operator, this.#reloads)
  }

  /** Why it stops, if the app failed under `baton run`. */
  get failure(): CommandError | undefined {
    return this.#failure
  }

  /** Resolves when the reload that led to this program, if any, is finished. Rejects when it cannot be. */
  get finished(): Promise<void> {
    return this.#finishing ?? Promise.resolve()
  }

  /** For SIGHUP. The result is only logged. */
  reload(): void {
    this.#reloads.submit({ requester: { kind: 'signal' }, session: undefined }, true)
  }

  #reloadFor(requests: readonly [ReloadRequest, ...ReloadRequest[]]): Promise<void> {
    return this.#beforeExec.reload(requests, (log) => {
      for (const request of requests) this.#reloads.answer(request, { success: false, log })
    })
  }

  /** The log file was reopened: workers write to `stdout` from now on. Borrows it. */
  reopenLog(stdout: number): void {
    for (const worker of this.#workerPool.workers) worker.send({ type: 'log' }, [stdout])
  }

  /** For SIGUSR2. Logs the answer to `status`, and each worker logs its own status. */
  logStatus(): void {
    const { logger } = this.#log
    // Every line the master logs already has its pid.
    const { master, managed, workers } = this.#status()
    const { pid: _, ...rest } = master
    logger.info({ ...rest, reloadsWaiting: this.#reloads.waiting.length }, 'status: master')
    for (const { pid: workerPid, ...worker } of workers)
      logger.info({ workerPid, ...worker }, 'status: worker')
    for (const { pid: peerPid, ...instance } of managed)
      logger.info({ peerPid, ...instance }, 'status: managed process')
    for (const worker of this.#workerPool.workers) worker.send({ type: 'dump' })
  }

  /** Files have changed (`baton run --watch`). */
  redeploy(file?: string): void {
    this.#appRun.redeploy(file)
  }

  /** Drains for at most `drainDeadline`. Resolves when every process that the master started has exited. */
  stop(reason: string, by?: string): Promise<void> {
    return (this.#stopped ??= this.#stop(reason, by))
  }

  /** Kills all workers and backends. */
  kill(): void {
    this.#spare.end()
    this.#workerPool.kill()
    this.#fleet.close()
  }

  /** Stops recreating removed files. */
  leaveFiles(): void {
    this.#files.close()
  }

  async #stop(reason: string, by?: string): Promise<void> {
    this.#appRun.end()
    this.#launchers.end()
    // Finish a reload that is past exec, but do not wait for backends; one that has not reached exec is cancelled.
    this.#workerPool.hurry()
    await this.#finishing
    this.#operationLock.begin('stop')
    this.#beforeExec.stop()
    this.#spare.end()
    const drainDeadline = longestDrainDeadline(this.#activeConfig.config)
    this.#notifier.stopping(drainDeadline)
    const { sockets } = this.#activeConfig
    // A service manager that stops the broker may be restarting it. An operator means it.
    const isLeft = reason === 'SIGTERM' && (await this.#store.prepareToLeave())
    if (!isLeft) await this.#store.forget()
    this.#log.logger.info({ signal: reason, by, deadlineMs: drainDeadline }, 'draining')
    const end = performance.now() + drainDeadline
    const report = new StopReport(sockets, this.#workerPool, this.#fleet, end, (line) => {
      this.#log.logger.info(line)
      this.#operator.broadcast(line)
    })
    sockets.closeListeners(isLeft)
    // A backend may still take held clients, so the backends stop last.
    await this.#workerPool.stop(drainDeadline, isLeft)
    // The worker has exited, and backends still finish.
    if (!isLeft) this.#agentCheck = answerDraining(sockets)
    this.#fleet.reported([], true)
    await this.#fleet.stop(Math.max(0, end - performance.now()))
    await this.#output.end()
    await this.#orphans.end(Math.min(ORPHANS_TIMEOUT_MS, Math.max(0, end - performance.now())))
    report.end()
    this.#log.logger.info('stopped')
    if (isLeft) await this.#store.leave()
    this.#operator.finish(answerText(true, []))
    this.#close(isLeft)
  }

  /** @param isLeft the next start gets the listening sockets */
  #close(isLeft = false): void {
    this.#late.close()
    this.#store.close()
    this.#orphans.close()
    this.#notifier.close()
    this.#operator.close()
    this.#agentCheck?.close()
    this.#activeConfig.close(isLeft)
    this.#sessionHandover.close()
    this.#lifeline.close()
    this.#files.close()
    this.#poller.close()
    this.#ended()
  }

  readonly #commanded: OperatorCommands = {
    status: () => this.#status(),
    deploy: (command) => this.#deployer.deploy(command),
    shift: (request) => this.#shift(request),
    scale: (command) => this.#late.scale(command),
    listen: async (request) => {
      await this.#decided
      return this.#appRun.listen(request)
    },
    reload: (session, wait) => this.#reloads.submit({ requester: { kind: 'session' }, session }, wait),
    stop: (session) => {
      void this.stop('requested by the operator', session.peer)
      this.#operator.awaitEnd(session)
    },
  }

  #received(worker: WorkerProcess, message: FromWorker): void {
    if (message.type === 'backends') {
      const backends = this.#backends()
      if (worker.role === 'leaving') this.#fleet.lost(backends)
      // While no worker serves, an empty list says nothing about the backends.
      const { current } = this.#workerPool
      if (current !== undefined) {
        this.#fleet.reported(backends, worker === current)
        this.#appRun.reported(backends)
      }
    }
    if (worker === this.#workerPool.current) this.#notifier.workerAnswered()
    if (message.type === 'control') {
      const { service, control } = message
      this.#controls.set(service, control)
      this.#workerPool.orders.sendControl(worker, service, control)
      this.#workerPool.sendEstate()
    }
    if (message.type === 'history' && worker === this.#workerPool.current)
      this.#history = extended(this.#history, message.points)
    if (message.type === 'collect') void this.#answerMetrics(worker, message.ask)
    if (message.type === 'shift') {
      const { ask, shift, ...rest } = message
      const request = { ...rest, shift: shift ?? undefined }
      void this.#shift(request).then((result) => worker.send({ type: 'answer', ask, ...result }))
    }
    if (message.type === 'scale') void this.#answerScale(worker, message)
    if (message.type === 'reload') {
      const { ask, by, wait = true } = message
      const requester = { kind: 'worker', worker: worker.number, ask, by } as const
      this.#reloads.submit({ requester, session: undefined }, wait)
    }
  }

  async #shift(request: ShiftRequest): Promise<CommandResult> {
    const result = this.#shifts.request(request)
    await this.#workerPool.orders.shifted(this.#activeConfig.config.workerTimeout)
    return result
  }

  /** Backends of all workers. During a reload, a backend may be listed by two. */
  #backends(): BackendReport[] {
    return [...this.#workerPool.workers].flatMap(({ backends }) => backends)
  }

  async #answerScale(worker: WorkerProcess, { ask, service, target, by }: ScaleMessage): Promise<void> {
    const answer = await this.#late.scale({ service, target, by, progress: () => {} })
    worker.send({ type: 'answer', ask, ...answer })
  }

  async #answerMetrics(worker: WorkerProcess, ask: number): Promise<void> {
    worker.send({ type: 'metrics', ask, snapshots: await this.#workerPool.snapshots(worker) })
  }

  #status() {
    return {
      master: {
        pid: process.pid,
        version: BROKER_VERSION,
        startedAt: this.#startedAt,
        reloads: this.#executions,
        busy: this.#operationLock.activity ?? null,
      },
      managed: this.#fleet.statuses(),
      scaled: this.#fleet.scaled,
      workers: [...this.#workerPool.workers].map(({ pid, role }) => ({
        pid,
        role: pid === this.#workerPool.current?.pid ? 'serving' : role === 'leaving' ? 'leaving' : 'starting',
      })),
      broker: brokerFacts(
        this.#activeConfig,
        [...this.#workerPool.workers],
        this.#appRun.state === undefined ? 'start' : 'run',
        this.#startedAt,
      ),
    }
  }
}

type ScaleMessage = Extract<FromWorker, { type: 'scale' }>

function answerDraining({ agentCheck }: ListeningSockets): AgentCheck | undefined {
  if (agentCheck === undefined) return undefined
  try {
    const answering = new AgentCheck(dup(agentCheck.fd.fd), () => 'drain\n')
    answering.start()
    return answering
  } catch (error) {
    if (error instanceof NativeError) return undefined
    throw error
  }
}
