import { dirname, join } from 'node:path'
import {
  Endpoint,
  executeInPlace,
  lockFile,
  NativeError,
  OwnedFd,
  Poller,
  setCloseOnExec,
} from '@baton/native-sendmsg'
import type { BackendReport, FromWorker } from '../channel/messages.ts'
import { type Config, ConfigError, parseConfigText, readConfigText } from '../config/index.ts'
import type { DeployProgress } from '../deploy/index.ts'
import { BrokerError } from '../errors.ts'
import type { Change } from '../events/index.ts'
import { define, Fleet, type FleetOptions, systemFleetOs } from '../fleet/index.ts'
import { modeOfSockets, openListener, prepareRuntimeDir } from '../sockets.ts'
import type { GivenSockets, Notifier } from '../systemd/index.ts'
import { BROKER_VERSION } from '../version.ts'
import { Counters } from './counters.ts'
import { controlPath, HeldSockets } from './held-sockets.ts'
import { Operator } from './operator.ts'
import { answerText, type Commanded, obey, type Outcome, reply } from './commands.ts'
import { answerOf, Deployer } from './deployer.ts'
import { decide, describePort, type PortRequest, writeDown } from './opened-ports.ts'
import { checkProgram } from './program-check.ts'
import { type Assignment, Roster } from './roster.ts'
import type { Session } from './session.ts'
import type { StartLog } from './start-log.ts'
import { type Asker, type MasterState, type RunState, STATE_VARIABLE, writeState } from './state.ts'
import { STATE_VERSION } from './state-version.ts'
import type { WorkerProcess } from './worker-process.ts'

/** The configuration that is in force, with the text that it was read from. */
interface Settings {
  readonly file: string
  readonly text: string
  readonly config: Config
}

/** What a master has when it begins, whether it opened it or was left it. */
interface Belongings {
  readonly settings: Settings
  readonly lock: OwnedFd
  readonly sockets: HeldSockets
  readonly pair: readonly [Endpoint, Endpoint]
  readonly counters: Counters
  readonly startedAt: string
  readonly executions: number
  readonly workersStarted: number
  readonly run: RunState | undefined
}

export interface MasterOptions {
  readonly log: StartLog
  /** This program, to be executed again: what stands behind the executable on the command line, less the command. */
  readonly program: readonly string[]
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
 * Owner of the lock of `runtimeDir`, of the sockets, of the pair through which a session crosses a reload, and of the roster.
 */
export class Master {
  readonly #log: StartLog
  readonly #program: readonly string[]
  readonly #poller = new Poller()
  readonly #roster: Roster
  readonly #fleet: Fleet
  readonly #operator: Operator
  readonly #lock: OwnedFd
  readonly #pair: readonly [Endpoint, Endpoint]
  readonly #counters: Counters
  readonly #startedAt: string
  readonly #executions: number
  readonly #notifier: Notifier
  #settings: Settings
  #sockets: HeldSockets
  /** What goes on that excludes other changes. */
  #busy: 'start' | 'reload' | 'deploy' | 'stop' | undefined = 'start'
  readonly #deployer: Deployer
  /** What `baton run` was told; undefined under `baton start`. */
  #run: RunState | undefined
  #stopped: Promise<void> | undefined
  #finishing: Promise<void> | undefined
  #changed = false
  #redeploying = false
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
    const lock = lockFile(join(config.runtimeDir, 'lock'))
    if (lock === undefined) throw new BrokerError('BATON_ERR_ALREADY_RUNNING', controlPath(config))
    const sockets = HeldSockets.open(config, options.given)
    let master: Master
    try {
      master = new Master(
        {
          settings,
          lock,
          sockets,
          pair: Endpoint.pair(),
          counters: new Counters(),
          startedAt: new Date().toISOString(),
          executions: 0,
          workersStarted: 0,
          run: options.run,
        },
        options,
      )
    } catch (error) {
      sockets.close(config)
      throw error
    }
    try {
      await master.#roster.start()
      master.#fleet.apply(fleetConfig(settings))
    } catch (error) {
      master.kill()
      master.#release()
      throw error
    }
    master.#busy = undefined
    options.notifier.ready('serving')
    return master
  }

  /** Goes on as the program that this one has replaced left off: finishes the reload that it began. */
  static async resume(state: MasterState, options: MasterOptions): Promise<Master> {
    // They crossed exec; no child is to have them.
    for (const fd of descriptorsOf(state)) setCloseOnExec(fd, true)
    options.notifier.watch()
    const counters = new Counters(state.counters)
    const [near, far] = state.pair
    const master = new Master(
      {
        settings: restoreSettings(state),
        lock: new OwnedFd(state.lock),
        sockets: HeldSockets.restore(state.sockets),
        pair: [new Endpoint(new OwnedFd(near)), new Endpoint(new OwnedFd(far))],
        counters,
        startedAt: state.startedAt,
        executions: state.executions,
        workersStarted: state.started,
        run: state.run ?? undefined,
      },
      options,
      state.fleet,
    )
    master.#roster.takeOver(state.workers)
    master.#finishing = master.#finishReload(state)
    await master.#finishing
    return master
  }

  private constructor(belongings: Belongings, { log, program, notifier }: MasterOptions, fleet?: unknown) {
    this.stopped = new Promise((resolve) => (this.#ended = resolve))
    this.#log = log
    this.#program = program
    this.#notifier = notifier
    this.#settings = belongings.settings
    this.#lock = belongings.lock
    this.#sockets = belongings.sockets
    this.#pair = belongings.pair
    this.#counters = belongings.counters
    this.#startedAt = belongings.startedAt
    this.#executions = belongings.executions
    this.#run = belongings.run
    const host = {
      assignment: () => this.#assignment(),
      message: (worker: WorkerProcess, message: FromWorker) => this.#heard(worker, message),
      ended: () => this.#fleet.lost(this.#backends()),
    }
    this.#roster = new Roster(this.#poller, this.#counters, host, log.logger, belongings.workersStarted)
    const fleetOptions: FleetOptions = {
      logger: log.logger,
      os: systemFleetOs(this.#poller),
      socket: controlPath(this.#settings.config),
      env: process.env,
      // Of a service that a reload removed only the worker that leaves knows.
      drain: (service, backend, deadline) => {
        for (const worker of this.#roster.workers) worker.send({ type: 'drain', service, backend, deadline })
      },
    }
    this.#fleet = fleet === undefined ? new Fleet(fleetOptions) : Fleet.restore(fleet, fleetOptions)
    this.#deployer = new Deployer(this.#fleet, log.logger)
    this.#operator = new Operator(this.#sockets.operator, this.#poller, {
      command: (session, words) => obey(session, words, this.#commanded),
    })
  }

  /** For SIGHUP: nobody hears the answer but the log. */
  reload(): void {
    void this.#reload({ kind: 'signal' }, undefined, (success, log) => {
      if (!success) for (const line of log) this.#log.logger.error({ reason: line }, 'reload refused')
    })
  }

  /** Files have changed (`baton run --watch`): a deploy, and another one when they change during it. */
  redeploy(): void {
    this.#changed = true
    if (!this.#redeploying) void this.#redeploy()
  }

  async #redeploy(): Promise<void> {
    this.#redeploying = true
    const { logger } = this.#log
    while (this.#changed && this.#stopped === undefined) {
      this.#changed = false
      for (const { name, command } of this.#settings.config.services.values()) {
        if (command === null) continue
        const { success, log } = await this.#deploy({
          service: name,
          atOnce: 1,
          abort: false,
          by: 'a changed file',
          progress: (line: string) => logger.info(line),
        })
        if (!success) for (const line of log) logger.error(line)
      }
    }
    this.#redeploying = false
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

  async #stop(reason: string, by?: string): Promise<void> {
    // What this program has begun anew it finishes first; a reload that has not replaced the program yet gives way.
    await this.#finishing
    this.#busy = 'stop'
    const { config } = this.#settings
    this.#notifier.stopping(config.drainDeadline)
    this.#log.logger.info({ signal: reason, by, deadlineMs: config.drainDeadline }, 'draining')
    const end = performance.now() + config.drainDeadline
    this.#sockets.closeListeners()
    // Those who wait may still be taken by a backend, so the backends go last.
    await this.#roster.stop(config.drainDeadline)
    this.#fleet.reported([])
    await this.#fleet.stop(Math.max(0, end - performance.now()))
    this.#log.logger.info('stopped')
    this.#operator.finish(answerText(true, []))
    this.#release()
  }

  #release(): void {
    this.#notifier.close()
    this.#operator.close()
    this.#sockets.close(this.#settings.config)
    for (const end of this.#pair) end.destroy()
    this.#lock.close()
    this.#poller.close()
    this.#ended()
  }

  readonly #commanded: Commanded = {
    status: () => this.#status(),
    deploy: (request) => this.#deploy(request),
    listen: (request) => this.#listen(request),
    reload: (session) =>
      void this.#reload({ kind: 'session' }, session, (success, log) => reply(session, { success, log })),
    stop: (session) => {
      void this.stop('asked by the operator', session.peer)
      this.#operator.awaitEnd(session)
    },
  }

  async #deploy({
    service: name,
    atOnce,
    abort,
    by,
    progress,
  }: Parameters<Commanded['deploy']>[0]): Promise<Outcome> {
    const service = this.#settings.config.services.get(name)
    if (service === undefined) {
      const known = [...this.#settings.config.services.keys()].join(', ')
      return refusal(`there is no service ${JSON.stringify(name)}; there are: ${known}`)
    }
    const told = { kind: 'deploy', service: name, by } as const
    const aborted = abort ? this.#deployer.abort(name, by) : undefined
    if (aborted !== undefined) {
      this.#tell({ ...told, text: `${by} aborts the deploy of service ${name}` })
      return answerOf(await aborted, true)
    }
    if (this.#busy !== undefined) return refusal(`a ${this.#busy} is going on`)
    this.#busy = 'deploy'
    try {
      const request = {
        service,
        file: this.#settings.file,
        atOnce,
        abort,
        by,
        progress: ({ step, instance, text }: DeployProgress) => progress(`${step} ${instance}: ${text}`),
      }
      const way = abort ? 'returns to the old version of' : 'deploys'
      const running = this.#deployer.run(request)
      this.#tell({ ...told, text: `${by} ${way} service ${name}` })
      const result = await running
      const end = result.success ? 'is deployed' : `could not be deployed: ${result.reason}`
      this.#tell({ ...told, text: `service ${name} ${end}` })
      return answerOf(result, false)
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      this.#tell({ ...told, text: `service ${name} is not deployed: ${why}` })
      return refusal(why)
    } finally {
      // A stop may have begun meanwhile.
      if (this.#busy === 'deploy') this.#busy = undefined
    }
  }

  /** A port that an app under `baton run` listens on. Each of its processes asks for the same ones. */
  async #listen(request: PortRequest): Promise<Outcome> {
    if (this.#run === undefined) return refusal(`listeners are those of ${this.#settings.file}`)
    await this.#finishing
    const { file, text } = this.#settings
    const decision = decide(text, this.#run.claims, request)
    const claims = { ...this.#run.claims, [String(request.port)]: decision.listener }
    if (decision.kind === 'new') {
      let fd: OwnedFd
      try {
        fd = openListener({ name: decision.listener, listen: decision.listen })
      } catch (error) {
        return refusal(error instanceof Error ? error.message : String(error))
      }
      this.#sockets = this.#sockets.add(decision.listener, fd, decision.listen)
      this.#settings = readSettings(file, decision.text)
      writeDown(file, decision.text)
      this.#run = { ...this.#run, claims }
      await this.#roster.listen(decision.listener, decision.parts, fd)
    }
    this.#run = { ...this.#run, claims }
    const held = this.#sockets.listeners.get(decision.listener)
    if (held === undefined || held.fd.closed) return refusal('the broker stops')
    const opened = describePort(this.#settings.text, file, decision.listener, held.fd)
    if (decision.kind === 'new') this.#log.logger.info(opened, 'listening for the app')
    return { success: true, log: [JSON.stringify(opened)] }
  }

  #heard(worker: WorkerProcess, message: FromWorker): void {
    if (message.type === 'backends') {
      const backends = this.#backends()
      if (worker.role === 'leaving') this.#fleet.lost(backends)
      // Without a worker that serves nobody knows anything.
      if (this.#roster.current !== undefined) this.#fleet.reported(backends)
    }
    if (worker === this.#roster.current) this.#notifier.workerHeard()
    if (message.type === 'collect') void this.#answerMetrics(worker, message.ask)
    if (message.type === 'reload') {
      const { ask, by } = message
      void this.#reload({ kind: 'worker', worker: worker.number, ask, by }, undefined, (success, log) =>
        worker.send({ type: 'reloaded', ask, success, log }),
      )
    }
  }

  /** All that any worker lists: during a reload a backend is with two. */
  #backends(): BackendReport[] {
    return [...this.#roster.workers].flatMap(({ backends }) => backends)
  }

  /** Those who listen to the events hear it. */
  #tell(change: Change): void {
    this.#roster.current?.send({ type: 'changed', change })
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
        busy: this.#busy ?? null,
      },
      managed: this.#fleet.statuses(),
      workers: [...this.#roster.workers].map(({ pid, role }) => ({
        pid,
        role: pid === this.#roster.current?.pid ? 'serving' : role === 'leaving' ? 'leaving' : 'starting',
      })),
    }
  }

  #assignment(settings = this.#settings, sockets = this.#sockets): Assignment {
    const { file, text, config } = settings
    return {
      text,
      file,
      controlPath: controlPath(config),
      controlMode: modeOfSockets(config),
      sockets,
      format: this.#log.format,
      services: new Set(config.services.keys()),
    }
  }

  /**
   * The first half of a reload, in the program that is to be replaced. On success it does not return: the other half is
   * `#finishReload` of the program that replaces it, and that is who answers.
   *
   * @param refused says why nothing has changed
   */
  async #reload(
    asker: Asker,
    session: Session | undefined,
    refused: (success: false, log: readonly string[]) => void,
  ): Promise<void> {
    if (this.#busy !== undefined) {
      const reason = `a ${this.#busy} is going on`
      if (asker.kind === 'signal') this.#answerManager(reason)
      return refused(false, [reason])
    }
    this.#busy = 'reload'
    this.#notifier.reloading()
    const by = asker.kind === 'worker' ? asker.by : (session?.peer ?? 'SIGHUP')
    let why: string
    try {
      const { file, config } = this.#settings
      this.#log.logger.info({ asker: asker.kind, by }, 'reloading')
      this.#tell({ kind: 'reload', by, text: `${by} reloads the broker` })
      const candidate = readSettings(file, readConfigText(file))
      if (candidate.config.runtimeDir !== config.runtimeDir) {
        throw new ConfigError(file, [
          { path: 'runtimeDir', message: 'cannot be changed by a reload; stop and start' },
        ])
      }
      const problem = await checkProgram(this.#program, file)
      if (this.#busy !== 'reload') return refused(false, ['a stop is going on'])
      // Everything that is half said in a channel is heard first; nothing more is heard until exec, in this turn.
      await this.#roster.becomeQuiet()
      if (this.#busy !== 'reload') return refused(false, ['a stop is going on'])
      why = problem ?? this.#execute(asker, session, candidate.text)
    } catch (error) {
      why = error instanceof Error ? error.message : String(error)
    }
    // A stop may have begun while it was looked at.
    if (this.#busy === 'reload') this.#busy = undefined
    this.#counters.reloaded(false, Date.now() / 1000)
    this.#log.logger.error({ reason: why }, 'reload failed; nothing has changed')
    this.#tell({ kind: 'reload', by, text: `the reload failed, and nothing has changed: ${why}` })
    this.#notifier.ready(`serving; reload failed: ${why}`)
    refused(false, why.split('\n'))
  }

  /** systemd waits for an answer to its SIGHUP. Where a reload goes on, the end of that one is it; a stop needs none. */
  #answerManager(reason: string): void {
    if (this.#busy === 'stop') return
    this.#notifier.reloading()
    if (this.#busy !== 'reload') this.#notifier.ready(`serving; reload refused: ${reason}`)
  }

  /** Replaces this program. Returns only when that failed, with the reason. */
  #execute(asker: Asker, session: Session | undefined, candidate: string): string {
    const [near, far] = this.#pair
    let crossing = false
    if (session?.open === true) {
      try {
        near.sendFd(session.fd)
        crossing = true
      } catch (error) {
        // The reload happens all the same; this session hears nothing of it.
        this.#log.logger.error({ err: error }, 'the session that asked cannot cross the reload')
        session.close()
      }
    }
    let file: OwnedFd | undefined
    try {
      const fleet = this.#fleet.serialize()
      const state: MasterState = {
        version: STATE_VERSION,
        executions: this.#executions + 1,
        file: this.#settings.file,
        text: this.#settings.text,
        candidate,
        lock: this.#lock.fd,
        sockets: this.#sockets.state,
        pair: [near.fd, far.fd],
        workers: [...this.#roster.workers].map((worker) => worker.state),
        started: this.#roster.started,
        counters: this.#counters.state,
        fleet: fleet.state,
        asker: crossing || asker.kind !== 'session' ? asker : { kind: 'signal' },
        startedAt: this.#startedAt,
        run: this.#run ?? null,
      }
      file = writeState(state)
      executeInPlace({
        path: process.execPath,
        args: [...this.#program, 'start', '--config', this.#settings.file],
        env: { ...process.env, ...this.#notifier.environment, [STATE_VARIABLE]: String(file.fd) },
        keep: [file.fd, ...descriptorsOf(state), ...fleet.keep],
      })
      return 'exec has returned'
    } catch (error) {
      // What waits in the pair is a duplicate of what the session still has.
      if (crossing) far.recvFdNonblock().close()
      return error instanceof Error ? error.message : String(error)
    } finally {
      file?.close()
    }
  }

  /** The second half, in the new program. */
  async #finishReload(state: MasterState): Promise<void> {
    const { logger } = this.#log
    this.#busy = 'reload'
    logger.info({ version: BROKER_VERSION, reloads: state.executions }, 'program replaced, reload goes on')
    const session = this.#takeSession(state.asker)
    let success = false
    let status = 'serving; reloaded'
    try {
      await this.#apply(readSettings(state.file, state.candidate))
      success = true
      logger.info('reloaded')
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      // What the program before this one had begun goes on.
      this.#applyToFleet()
      status = `serving; reload failed: ${reason}`
      logger.error({ reason }, 'reload failed; the worker goes on as before')
      this.#tell({ kind: 'reload', text: `the reload failed, and the worker goes on as before: ${reason}` })
    }
    this.#counters.reloaded(success, Date.now() / 1000)
    this.#busy = undefined
    this.#notifier.ready(status)
    const log = this.#log.take()
    if (session !== undefined) reply(session, { success, log })
    if (state.asker.kind !== 'worker') return
    const { worker: number, ask } = state.asker
    const worker = [...this.#roster.workers].find((each) => each.number === number)
    worker?.send({ type: 'reloaded', ask, success, log })
  }

  #applyToFleet(): void {
    try {
      this.#fleet.apply(fleetConfig(this.#settings))
    } catch (error) {
      // A folder has gone since it was looked at.
      this.#log.logger.error({ err: error }, 'managed backends stay as they were')
    }
  }

  async #apply(next: Settings): Promise<void> {
    const { drainDeadline } = this.#settings.config
    const change = this.#sockets.change(next.config)
    let finish: Awaited<ReturnType<Roster['replace']>>
    try {
      finish = await this.#roster.replace(this.#assignment(next, change.sockets))
    } catch (error) {
      change.rollBack()
      throw error
    }
    this.#settings = next
    this.#sockets = change.sockets
    // Backends of a service that is gone are with the old worker alone: it is told to drain them before it lets them go.
    this.#applyToFleet()
    finish(change.removed, drainDeadline)
    try {
      change.commit()
    } catch (error) {
      // It is done all the same: the new worker serves.
      this.#log.logger.error({ err: error }, 'what the reload made superfluous could not be cleared away')
    }
  }

  /** It has waited in the kernel while there was no program to have it. It is a new session: of its modes nothing is left. */
  #takeSession(asker: Asker): Session | undefined {
    if (asker.kind !== 'session') return undefined
    try {
      return this.#operator.adopt(this.#pair[1].recvFdNonblock())
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      this.#log.logger.error({ err: error }, 'the session that asked was lost in the reload')
      return undefined
    }
  }
}

function fleetConfig({ file, config: { services, drainDeadline } }: Settings) {
  return { services, base: dirname(file), drainDeadline }
}

/** In force already: what has changed around it since does not matter. */
function restoreSettings({ file, text }: MasterState): Settings {
  return { file, text, config: parseConfigText(text, file) }
}

/** @throws {ConfigError} */
function readSettings(file: string, text: string): Settings {
  const config = parseConfigText(text, file)
  // Before anything is begun with it.
  for (const service of config.services.values()) define(service, dirname(file))
  return { file, text, config }
}

function descriptorsOf({ lock, pair, sockets, workers }: MasterState): number[] {
  return [
    lock,
    ...pair,
    sockets.control,
    sockets.operator,
    sockets.admin.fd,
    ...sockets.listeners.map(({ fd }) => fd),
    ...workers.flatMap(({ channel, stderr }) => [channel, stderr]),
  ]
}

function refusal(why: string): Outcome {
  return { success: false, log: [why] }
}
