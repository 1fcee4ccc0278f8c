import { NativeError, OwnedFd, type Poller } from '@baton/native-sendmsg'
import type { Logger } from 'pino'
import { Channel } from '../../ipc/channel.ts'
import type { BackendReport, FromWorker, ToWorker } from '../../ipc/messages.ts'
import { standardError } from '../../log/standard.ts'
import type { MetricSnapshot } from '../../metrics/snapshot.ts'
import { Child, type ChildEvents, type ProcessExit } from '../../supervise/child.ts'
import { LineSplitter } from '../../supervise/lines.ts'
import { LastLines } from '../../supervise/output.ts'
import { factsOf } from '../../supervise/proc.ts'
import { type CopyStore, noStore, workerKey } from './copy-store.ts'
import {
  accountsIn,
  type FinishingWorker,
  type WorkerAccounts,
  type WrittenAccounts,
} from '../../ipc/copies.ts'
import type { StartedWorker } from './started-worker.ts'
import { strayEnd } from './thread-stats.ts'
import {
  copyLimit,
  type KeptAs,
  type Remains,
  WorkerCopies,
  type WorkerCopiesState,
} from './worker-copies.ts'

/** The master's parts that a worker process uses. */
export interface WorkerParts {
  readonly poller: Poller
  readonly logger: Logger
  /** Where copies of what waits are kept as well. */
  readonly store: CopyStore
}

/** How long a worker may go on after its channel has ended, in ms. One that is leaving has ended it itself, and writes its last lines. */
const EXIT_TIMEOUT_MS = { current: 2000, leaving: 30_000 }

/** Lines of its standard error that are kept to show why it died. */
const KEPT_LINES = 20

/** The state of one worker that crosses the master's exec. */
export interface WorkerState {
  readonly number: number
  readonly pid: number
  readonly role: 'current' | 'leaving'
  readonly channel: number
  /** Null if it has closed it. */
  readonly stderr: number | null
  readonly snapshot: MetricSnapshot
  readonly backends: readonly BackendReport[]
  /** See `WorkerProcess.answers`. Absent in the state of a program that did not send pings. */
  readonly answers?: boolean
  /** See `WorkerProcess.succeeds`. */
  readonly succeeds?: boolean
  readonly pairs?: boolean
  readonly pauses?: boolean
  /** Absent if it keeps no copies at the master: it is of an older version. */
  readonly copies?: WorkerCopiesState | undefined
  /** Of a worker that was taken over: what it had counted before, until its new memory file says more. */
  readonly accounts?: WrittenAccounts | undefined
  /** Of a worker that another master had started, which was killed: see `AdoptOptions`. */
  readonly foreign?: string | undefined
}

export interface WorkerEvents {
  message(worker: WorkerProcess, message: FromWorker): void
  /** Its channel has failed, and it goes on: it takes this master for dead, and would answer nothing ever again. */
  unreachable(worker: WorkerProcess, error: Error | undefined): void
  /** The process has exited and was reaped, and all its output was read. */
  ended(worker: WorkerProcess, exit: ProcessExit): void
}

/**
 * A worker as its master sees it: the process, its channel, and its last reports. It was started by this program, or by the one that this
 * program replaced.
 *
 * Owns the process and the master's end of the channel.
 */
export class WorkerProcess {
  /** Counts all workers of this master, also across exec. */
  readonly number: number
  readonly pid: number
  role: WorkerState['role'] = 'current'
  /** By performance.now(); for an adopted worker, the time of the adoption. */
  readonly startedAt = performance.now()
  /** It has its sockets and its configuration, and has accepted nothing yet. */
  ready = false
  /** Until it is told to serve, or to stop because it is not needed. */
  starting = true
  /** Its reason for not getting ready. */
  failure: string | undefined
  /** Listeners of `baton run` that were added while it ran. */
  readonly listeners = new Set<string>()
  /** Set while it has not answered within the timeout: what was observed. */
  hung: object | undefined
  /** It was killed because it hangs. */
  killed = false
  snapshot: MetricSnapshot = []
  /** How many times it has reported its counters. */
  counts = 0
  backends: readonly BackendReport[] = []
  /** Open connections of its backends, and its own. */
  connections = 0
  /** The last `shifts` that it has applied, by its number. */
  shifted = 0
  messagesReceived = 0
  /** Whether it is known to answer pings: it was built by this program, or has answered one. Workers of older versions do not. */
  answers = false
  /** Whether it is known to understand `successor`. */
  succeeds = false
  /** Whether it is known to understand `pairs`. */
  pairs = false
  /** Whether it is known to answer `pause`. */
  pauses = false
  /** It has answered the last `pause`. */
  hasPaused = false
  /** Ids of the backends that have drained here since the last `willBeReplaced`: they do not move to its successor. */
  readonly drained = new Set<string>()
  #notesDrained = false
  readonly #channel: Channel<FromWorker, ToWorker>
  readonly #process: Child
  readonly #lines = new LineSplitter()
  readonly #last = new LastLines(KEPT_LINES)
  readonly #events: WorkerEvents
  #copies: WorkerCopies | undefined
  #foreign: string | undefined
  /** See `WorkerState.accounts`. */
  #before: WrittenAccounts | undefined
  #channelEnded = false
  #overdue: NodeJS.Timeout | undefined
  #exit: ProcessExit | undefined

  /** Owns the started process. */
  static start(
    number: number,
    started: StartedWorker,
    parts: WorkerParts,
    events: WorkerEvents,
  ): WorkerProcess {
    const worker = new WorkerProcess(number, parts.poller, events, (childEvents) => {
      const { child, channel } = started.take(childEvents)
      return { child, pid: started.pid, channel }
    })
    worker.keepCopies(parts)
    return worker
  }

  /** Owns the descriptors that the state names. */
  static adopt(
    state: WorkerState,
    { poller, logger, store }: WorkerParts,
    events: WorkerEvents,
  ): WorkerProcess {
    const { number, pid, stderr, copies, foreign } = state
    const numbers = { pid, stdout: null, stderr, exit: null }
    const worker = new WorkerProcess(number, poller, events, (childEvents) => ({
      child: Child.adopt(numbers, { poller, leader: false, foreign }, childEvents),
      pid,
      channel: new OwnedFd(state.channel),
    }))
    worker.role = state.role
    worker.starting = false
    worker.snapshot = state.snapshot
    worker.backends = state.backends
    worker.answers = state.answers === true
    worker.succeeds = state.succeeds === true
    worker.pairs = state.pairs === true
    worker.pauses = state.pauses === true
    worker.#foreign = foreign
    worker.#before = state.accounts
    if (copies !== undefined)
      worker.#copies = WorkerCopies.adopt(copies, poller, logger, () => worker.#settle(), keptAs(pid, store))
    return worker
  }

  private constructor(
    number: number,
    poller: Poller,
    events: WorkerEvents,
    run: (events: ChildEvents) => { child: Child; pid: number; channel: OwnedFd },
  ) {
    this.number = number
    this.#events = events
    const { child, pid, channel } = run({
      output: (_stream, chunk) => this.#readStderr(chunk),
      exited: (exit) => {
        this.#exit = exit
        this.#settle()
      },
    })
    this.#process = child
    this.pid = pid
    this.#channel = new Channel<FromWorker, ToWorker>(channel, poller, {
      message: (message, fds) => {
        for (const fd of fds) fd.close()
        this.#received(message)
      },
      ended: (error) => {
        this.#channelEnded = true
        if (this.#exit === undefined) this.#expectExit(error)
        this.#settle()
      },
    })
  }

  /** Neither the process nor its channel has ended. */
  get alive(): boolean {
    return this.#process.running && !this.#channelEnded
  }

  /** It is no child of this process, so its exit code is not known. */
  get isForeign(): boolean {
    return this.#foreign !== undefined
  }

  /** The signal that has ended it through no fault of its own; undefined while it is alive. */
  get strayEnd(): string | undefined {
    return this.#exit && strayEnd(this.#exit)
  }

  /** Changes with each sign of life: messages, and answers in the memory file. */
  get heard(): number {
    return this.messagesReceived + (this.#copies?.pulse ?? 0)
  }

  /** @param quiet it may answer in the memory file, which does not wake this process */
  ping(quiet: boolean): void {
    this.send(quiet && this.#copies !== undefined ? { type: 'ping', quiet } : { type: 'ping' })
  }

  /** No message is partly sent or partly received. */
  get quiet(): boolean {
    return this.#channel.quiet && this.#copies?.quiet !== false
  }

  /** Copies of connections that wait in it. */
  get copies(): number {
    return this.#copies?.size ?? 0
  }

  /** The counts that it has written down; undefined if it writes nothing. */
  get accounts(): WorkerAccounts | undefined {
    return this.#copies && this.#latest(this.#copies.written)
  }

  /**
   * Whether it has ended without a connection: it writes down what it has before it gets one from another worker, or gives it one. One that is starting
   * may have some that backends have handed back.
   *
   * @param accounts undefined if nothing is known
   */
  hasWrittenNothing(accounts: WorkerAccounts | undefined): boolean {
    if (accounts?.moves !== undefined) return false
    if (this.starting) return true
    // The layout is not known yet after an exec by a program of an older version.
    const isRead = accounts !== undefined && accounts.layout.length > 0
    return isRead && this.pairs && !this.isForeign && accounts.numbers.every((each) => each === 0)
  }

  /** Once it has ended, and once only: see `WorkerCopies.take`. */
  takeRemains(): Remains | undefined {
    const remains = this.#copies?.take()
    this.#copies = undefined
    return remains && { ...remains, accounts: this.#latest(remains.accounts) }
  }

  /** The file of a worker that was taken over is a new one, and says nothing at first. */
  #latest(written: WorkerAccounts): WorkerAccounts {
    if (written.moves !== undefined || this.#before === undefined) return written
    return accountsIn(this.#before.layout, Float64Array.from(this.#before.content))
  }

  /** For another master, if this one is killed. Undefined if it writes nothing that another master could read. */
  get finishing(): FinishingWorker | undefined {
    const startedAt = this.#foreign ?? factsOf(this.pid)?.startedAt
    if (this.#copies === undefined || startedAt === undefined) return undefined
    return { pid: this.pid, startedAt, snapshot: this.snapshot, ...this.#copies.accounts }
  }

  /** The last lines of its standard error. */
  get lastLines(): readonly string[] {
    return this.#last.lines
  }

  send(message: ToWorker, fds: readonly number[] = []): void {
    this.#channel.send(message, fds)
  }

  /** Owns the descriptors. */
  give(message: ToWorker, fds: readonly OwnedFd[]): void {
    this.#channel.give(message, fds)
  }

  /** Resolves when the kernel has all messages, or the channel has ended. */
  sent(): Promise<void> {
    return this.#channel.sent()
  }

  /** A reload begins. */
  willBeReplaced(): void {
    this.hasPaused = false
    this.#notesDrained = true
    this.drained.clear()
    this.#noteDrained()
  }

  /** It serves on: the reload has failed. */
  isKept(): void {
    this.#notesDrained = false
  }

  #noteDrained(): void {
    if (!this.#notesDrained) return
    // The last entry counts: a registration that was superseded comes before its successor, and takes no more connections either.
    const states = new Map(this.backends.map(({ id, state }) => [id, state]))
    for (const [id, state] of states) if (state === 'draining') this.drained.add(id)
  }

  kill(signal: NodeJS.Signals): void {
    this.#process.signal(signal)
  }

  /**
   * For the next program to adopt it. Its descriptors must stay open.
   *
   * @param withCopies the next program takes what is copied; else it asks the worker for all of it again
   */
  stateWith(withCopies: boolean): WorkerState {
    const { number, pid, role, snapshot, backends, answers, succeeds, pairs, pauses } = this
    const numbers = { channel: this.#channel.fd, stderr: this.#process.numbers?.stderr ?? null }
    return {
      number,
      pid,
      role,
      ...numbers,
      snapshot,
      backends,
      answers,
      succeeds,
      pairs,
      pauses,
      copies: this.#copies?.stateWith(withCopies),
      foreign: this.#foreign,
      accounts: this.#before,
    }
  }

  /**
   * From now on there are copies of what waits in it, unless there are some already. Without them it works as well: what waits in it would not
   * survive it.
   */
  keepCopies({ poller, logger, store }: WorkerParts): void {
    if (this.#copies !== undefined) return
    try {
      const kept = keptAs(this.pid, store)
      const [copies, theirs] = WorkerCopies.create(poller, logger, () => this.#settle(), kept)
      this.#copies = copies
      const [socket, file] = theirs
      this.send({ type: 'copies', limit: copyLimit() }, [socket.fd, file.fd])
      socket.close()
    } catch (error) {
      if (!(error instanceof NativeError)) throw error
      logger.error({ err: error }, 'no copies of waiting connections can be kept')
    }
  }

  #received(message: FromWorker): void {
    this.messagesReceived += 1
    if (message.type === 'ready' || message.type === 'pong') {
      this.answers = true
      this.succeeds = message.succeeds === true
      this.pairs = message.pairs === true
      this.pauses = message.pauses === true
    }
    if (message.type === 'ready') this.ready = true
    else if (message.type === 'failed') this.failure = `${message.message} (${message.code})`
    else if (message.type === 'listens') this.listeners.add(message.listener)
    else if (message.type === 'paused') this.hasPaused = true
    else if (message.type === 'shifted') this.shifted = message.ask
    else if (message.type === 'backends') {
      this.backends = message.backends
      this.#noteDrained()
      this.connections = message.connections ?? 0
    } else if (message.type === 'counted') {
      this.snapshot = message.snapshot
      this.counts += 1
    }
    this.#events.message(this, message)
  }

  #readStderr(chunk: Buffer): void {
    standardError().write(Buffer.from(chunk))
    this.#last.push(this.#lines.push(chunk))
  }

  #expectExit(error: Error | undefined): void {
    this.#overdue = setTimeout(
      () => this.#events.unreachable(this, error),
      EXIT_TIMEOUT_MS[this.role],
    ).unref()
  }

  #settle(): void {
    if (this.#exit !== undefined) clearTimeout(this.#overdue)
    if (this.#exit === undefined || !this.#channelEnded || this.#copies?.open === true) return
    this.#last.push(this.#lines.end())
    this.#events.ended(this, this.#exit)
  }
}

/** A process that is gone already has nothing to keep. */
function keptAs(pid: number, store: CopyStore): KeptAs {
  const facts = factsOf(pid)
  return facts === undefined ? { store: noStore, worker: '' } : { store, worker: workerKey(facts) }
}
