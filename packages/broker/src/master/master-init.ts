import { lockFile, OwnedFd, Poller, setCloseOnExec, socketpair } from '@baton/native-sendmsg'
import type { History } from '../api/history.ts'
import type { Shifts as ShiftsState } from '../api/shift.ts'
import { BrokerError } from '../errors.ts'
import type { Controls } from '../ipc/controls.ts'
import { STATE_VERSION } from '../ipc/state-version.ts'
import { prepareRuntimeDir } from '../listening/sockets.ts'
import type { OutputKeeperState } from '../log/kept/output-keeper.ts'
import { Lifeline } from '../supervise/lifeline.ts'
import { ActiveConfig, restoreSettings, type Settings } from './active-config.ts'
import type { Inheritance } from './claim/claim.ts'
import { describeHolder } from './claim/lock-holder.ts'
import { lockPath } from './files-on-disk.ts'
import { controlPath, ListeningSockets, wantedBy } from './listening-sockets.ts'
import type { InstalledProgram } from './reload/installed-program.ts'
import { SessionHandover } from './reload/session-handover.ts'
import { descriptorsOf, type MasterState } from './reload/state.ts'
import type { RunState } from './run/app-run.ts'
import type { Launcher } from './run/launchers.ts'
import type { StartLog } from './start-log.ts'
import { ManagerStore } from './systemd/manager-store.ts'
import type { Notifier } from './systemd/notify.ts'
import type { PassedSockets } from './systemd/socket-activation.ts'
import type { TicketRotationState } from './tickets/ticket-rotation.ts'
import { Counters } from './workers/counters.ts'

export interface MasterOptions {
  readonly log: StartLog
  /** This program, which a reload executes again. */
  readonly program: InstalledProgram
  /** Under `baton run`. */
  readonly run?: RunState | undefined
  /** Under `baton start`, of a new process: it stops when one of them ends. */
  readonly launchers?: readonly Launcher[] | undefined
  /** Notified of each change of state. The master closes it. */
  readonly notifier: Notifier
  /** Sockets that the service manager has passed. Those that match a listener are taken. */
  readonly given?: PassedSockets | undefined
}

/** Initial state of a master: newly opened, or restored after exec. The master owns it. */
export interface MasterInit {
  readonly poller: Poller
  readonly store: ManagerStore
  readonly activeConfig: ActiveConfig
  readonly lock: OwnedFd
  readonly lifeline: Lifeline
  readonly sessionHandover: SessionHandover
  readonly counters: Counters
  readonly startedAt: string
  readonly executions: number
  readonly workersStarted: number
  readonly run: RunState | undefined
  readonly launchers: readonly Launcher[]
  readonly controls?: Controls | undefined
  readonly shifts?: ShiftsState | undefined
  readonly output?: OutputKeeperState | undefined
  readonly history?: History | undefined
  readonly tickets?: TicketRotationState | undefined
}

/**
 * Locks `runtimeDir`, which exists then.
 *
 * @throws {BrokerError} BATON_ERR_ALREADY_RUNNING, BATON_ERR_RUNTIME_DIR
 */
export function lockRuntimeDir({ config }: Settings): OwnedFd {
  prepareRuntimeDir(config)
  const lock = lockFile(lockPath(config))
  if (lock !== undefined) return lock
  throw new BrokerError(
    'BATON_ERR_ALREADY_RUNNING',
    `${controlPath(config)}${describeHolder(lockPath(config))}`,
  )
}

/**
 * Opens every listening socket.
 *
 * @param lock closed on failure
 * @throws {BrokerError} BATON_ERR_LISTEN
 * @throws {AdminListenError} BATON_ERR_ADMIN_LISTEN
 * @throws {NativeError} the pair for sessions cannot be created
 */
export async function opened(
  settings: Settings,
  lock: OwnedFd,
  { log, run, launchers, notifier, given }: MasterOptions,
): Promise<MasterInit> {
  const { config } = settings
  const poller = new Poller()
  const store = ManagerStore.start(managerFacts(run, notifier), poller, log.logger, given?.storedNames)
  let activeConfig: ActiveConfig | undefined
  try {
    const unwanted = given?.closeUnwanted(wantedBy(config)) ?? []
    for (const name of unwanted) store.remove(name)
    // Another listener may want the port.
    if (unwanted.length > 0) await store.removed()
    activeConfig = new ActiveConfig(settings, ListeningSockets.open(config, given))
    return {
      poller,
      store,
      activeConfig,
      lock,
      lifeline: new Lifeline(),
      sessionHandover: SessionHandover.open(),
      counters: new Counters(undefined, () => log.dropped, config.services.keys()),
      startedAt: new Date().toISOString(),
      executions: 0,
      workersStarted: 0,
      run,
      launchers: run?.launchers ?? launchers ?? [],
    }
  } catch (error) {
    store.close()
    poller.close()
    activeConfig?.close()
    lock.close()
    throw error
  }
}

/** Of a master that was replaced by this program. Takes the descriptors that crossed exec. */
export function restored(state: MasterState, { log, launchers, notifier, given }: MasterOptions): MasterInit {
  // No child may inherit them.
  for (const fd of descriptorsOf(state)) setCloseOnExec(fd, true)
  notifier.watch()
  const poller = new Poller()
  const facts = managerFacts(state.run ?? undefined, notifier)
  const store =
    given === undefined
      ? ManagerStore.resume(facts, poller, log.logger, state.store)
      : ManagerStore.start(facts, poller, log.logger, given.storedNames)
  const settings = restoreSettings(state.file, state.text)
  const { startedAt, executions, controls, shifts, output, history, tickets } = state
  return {
    poller,
    store,
    activeConfig: new ActiveConfig(settings, ListeningSockets.restore(state.sockets, settings.config)),
    lock: new OwnedFd(state.lock),
    lifeline: new Lifeline(state.lifeline),
    sessionHandover: SessionHandover.restore(state.pair),
    counters: new Counters(state.counters, () => log.dropped, settings.config.services.keys()),
    startedAt,
    executions,
    workersStarted: state.started,
    run: state.run ?? undefined,
    launchers: state.run?.launchers ?? state.launchers ?? launchers ?? [],
    controls,
    shifts,
    output,
    history,
    tickets,
  }
}

/**
 * The state of a master that goes on where one that was killed has left its worker: with the configuration that was active, and a reload
 * to the current one ahead.
 */
export function inheritedState(
  { estate, worker, history }: Inheritance,
  { file, text }: Settings,
  lock: OwnedFd,
): MasterState {
  const [near, far] = socketpair('seqpacket')
  return {
    version: STATE_VERSION,
    executions: 0,
    file,
    text: estate.text,
    candidate: text,
    lock: lock.release(),
    sockets: estate.sockets,
    pair: [near.release(), far.release()],
    workers: [worker],
    known: worker.backends,
    started: estate.started,
    counters: estate.counters,
    fleet: estate.fleet,
    lifeline: estate.lifeline,
    ...(estate.finishing && { finishing: estate.finishing }),
    ...(estate.controls && { controls: estate.controls }),
    ...(estate.shifts && { shifts: estate.shifts }),
    ...(estate.tickets && { tickets: estate.tickets }),
    ...(history && { history }),
    askers: [],
    waiting: [],
    startedAt: new Date().toISOString(),
    run: null,
    claimed: worker.pid,
  }
}

/** For a master that could not be created from it. */
export function closeInit({
  store,
  poller,
  activeConfig,
  sessionHandover,
  lifeline,
  lock,
}: MasterInit): void {
  store.close()
  sessionHandover.close()
  lifeline.close()
  poller.close()
  activeConfig.close()
  lock.close()
}

/** Under `baton run`, everything ends with the command: nothing is kept. */
function managerFacts(run: RunState | undefined, { socket, storeLimit }: Notifier) {
  return { socket: run === undefined ? socket : undefined, storeLimit }
}
