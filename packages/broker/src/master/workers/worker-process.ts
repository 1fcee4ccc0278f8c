import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { Socket } from 'node:net'
import { fileURLToPath } from 'node:url'
import {
  EPOLLIN,
  NativeError,
  openProcess,
  OwnedFd,
  type Poller,
  reap,
  socketpair,
} from '@baton/native-sendmsg'
import { Channel } from '../../ipc/channel.ts'
import type { BackendReport, FromWorker, ToWorker } from '../../ipc/messages.ts'
import { BrokerError } from '../../errors.ts'
import type { LogFormat } from '../../log/logger.ts'
import { standardError } from '../../log/standard.ts'
import type { MetricSnapshot } from '../../metrics/index.ts'

const PROGRAM = fileURLToPath(new URL('../../worker/main.js', import.meta.url))

/** Lines of its standard error that are kept, to say why it ended. */
const KEPT_LINES = 20

export interface Exit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

/** What crosses the master's exec of one worker. */
export interface WorkerState {
  readonly number: number
  readonly pid: number
  readonly role: 'current' | 'leaving'
  readonly channel: number
  readonly stderr: number
  readonly snapshot: MetricSnapshot
  readonly backends: readonly BackendReport[]
  /** See `WorkerProcess.answers`. Absent in the state of a program that did not ask. */
  readonly answers?: boolean
}

export interface WorkerHost {
  message(worker: WorkerProcess, message: FromWorker): void
  /** The process has ended and was reaped; its last words were read before. */
  ended(worker: WorkerProcess, exit: Exit): void
}

/**
 * One worker as its master sees it: the process, its channel, and what it said last. Started by this program, or taken over
 * from the program that this one replaced.
 *
 * Owns the channel's end and the reading end of the worker's standard error.
 */
export class WorkerProcess {
  /** Counts up over all workers of this master, also across exec. */
  readonly number: number
  readonly pid: number
  role: WorkerState['role'] = 'current'
  snapshot: MetricSnapshot = []
  /** How often it has said what it counted. */
  counts = 0
  backends: readonly BackendReport[] = []
  /** How many messages have come. */
  messagesReceived = 0
  /** It is known to answer pings: built by this program, or it has done so. Workers of an older one do not. */
  answers = false
  readonly #channel: Channel<FromWorker, ToWorker>
  readonly #stderr: OwnedFd
  readonly #stderrSocket: Socket
  readonly #lines: string[] = []
  readonly #host: WorkerHost
  #partial = ''
  #openEnds = 2
  #exit: Exit = { code: null, signal: null }

  /**
   * @param node to start it with
   * @throws {BrokerError} BATON_ERR_PROGRAM_GONE, BATON_ERR_WORKER_FAILED
   */
  static start(
    number: number,
    node: string,
    format: LogFormat,
    poller: Poller,
    host: WorkerHost,
  ): WorkerProcess {
    if (!existsSync(PROGRAM)) throw new BrokerError('BATON_ERR_PROGRAM_GONE', PROGRAM)
    const [channel, theirs] = socketpair('stream')
    const [stderr, words] = socketpair('stream')
    const child = spawn(node, [...youngGeneration(), ...process.execArgv, PROGRAM, format], {
      // The channel's place is WORKER_CHANNEL.
      stdio: ['ignore', 'inherit', words.fd, theirs.fd],
      env: environment(),
    })
    theirs.close()
    words.close()
    const { pid } = child
    if (pid === undefined) {
      channel.close()
      stderr.close()
      child.on('error', () => {})
      throw new BrokerError('BATON_ERR_WORKER_FAILED', `${node} cannot be started`)
    }
    const worker = new WorkerProcess({ number, pid }, channel, stderr, poller, host)
    child.on('exit', (code, signal) => worker.#exited({ code, signal }))
    return worker
  }

  static takeOver(state: WorkerState, poller: Poller, host: WorkerHost): WorkerProcess {
    const worker = new WorkerProcess(
      state,
      new OwnedFd(state.channel),
      new OwnedFd(state.stderr),
      poller,
      host,
    )
    worker.role = state.role
    worker.snapshot = state.snapshot
    worker.backends = state.backends
    worker.answers = state.answers === true
    worker.#awaitExit(poller)
    return worker
  }

  private constructor(
    { number, pid }: Pick<WorkerState, 'number' | 'pid'>,
    channel: OwnedFd,
    stderr: OwnedFd,
    poller: Poller,
    host: WorkerHost,
  ) {
    this.number = number
    this.pid = pid
    this.#host = host
    this.#stderr = stderr
    this.#channel = new Channel<FromWorker, ToWorker>(channel, poller, {
      message: (message, fds) => {
        for (const fd of fds) fd.close()
        this.messagesReceived += 1
        if (message.type === 'pong') this.answers = true
        if (message.type === 'counted') {
          this.snapshot = message.snapshot
          this.counts += 1
        } else if (message.type === 'backends') this.backends = message.backends
        host.message(this, message)
      },
      ended: () => this.#done(),
    })
    // A duplicate, since a net.Socket closes the number that it is given.
    this.#stderrSocket = new Socket({ fd: stderr.dup().release(), readable: true, writable: false })
    this.#stderrSocket.on('error', () => {}).on('data', (chunk: Buffer) => this.#readStderr(chunk))
  }

  /** Neither the process nor its channel has ended. */
  get alive(): boolean {
    return this.#openEnds === 2
  }

  /** Nothing is half sent or half received. */
  get quiet(): boolean {
    return this.#channel.quiet
  }

  /** The last lines of its standard error. */
  get lastLines(): readonly string[] {
    return this.#lines
  }

  send(message: ToWorker, fds: readonly number[] = []): void {
    this.#channel.send(message, fds)
  }

  kill(signal: NodeJS.Signals): void {
    try {
      process.kill(this.pid, signal)
    } catch (error) {
      // It has ended by itself.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
    }
  }

  /** What a successor of this program needs to take it over, and the descriptors that have to live on. */
  get state(): WorkerState {
    const { number, pid, role, snapshot, backends, answers } = this
    const numbers = { channel: this.#channel.fd, stderr: this.#stderr.fd }
    return { number, pid, role, ...numbers, snapshot, backends, answers }
  }

  #readStderr(chunk: Buffer): void {
    standardError().write(chunk)
    const lines = (this.#partial + chunk.toString()).split('\n')
    this.#partial = lines.pop() ?? ''
    this.#lines.push(...lines)
    this.#lines.splice(0, Math.max(0, this.#lines.length - KEPT_LINES))
  }

  #awaitExit(poller: Poller): void {
    let process: OwnedFd
    try {
      process = openProcess(this.pid)
    } catch (error) {
      if (!(error instanceof NativeError) || error.code !== 'ESRCH') throw error
      // It ended between two programs, and was reaped by the one before this.
      setImmediate(() => this.#exited({ code: null, signal: null }))
      return
    }
    const watch = poller.add(process.fd, EPOLLIN, () => {
      const exit = reap(this.pid)
      if (exit === undefined) return
      watch.remove()
      process.close()
      this.#exited(exit)
    })
  }

  #exited(exit: Exit): void {
    this.#exit = exit
    this.#done()
  }

  /** Both the channel and the process have ended. */
  #done(): void {
    this.#openEnds -= 1
    if (this.#openEnds > 0) return
    const end = () => {
      this.#stderrSocket.destroy()
      if (!this.#stderr.closed) this.#stderr.close()
      this.#host.ended(this, this.#exit)
    }
    // Its last words may still be on their way; nobody else holds the other end.
    if (this.#stderrSocket.readableEnded || this.#stderrSocket.destroyed) end()
    else this.#stderrSocket.once('close', end)
  }
}

/**
 * Hardly anything that a worker allocates lives long, and V8 lets the space for it grow to 16 MiB three times over, which stays
 * resident: more than 10,000 held clients need. Who has set it otherwise, here or in NODE_OPTIONS, is obeyed.
 */
function youngGeneration(): string[] {
  return /semi[-_]space/.test(process.env['NODE_OPTIONS'] ?? '') ? [] : ['--max-semi-space-size=4']
}

function environment(): NodeJS.ProcessEnv {
  const {
    NOTIFY_SOCKET: _socket,
    LISTEN_FDS: _fds,
    LISTEN_PID: _pid,
    LISTEN_FDNAMES: _names,
    ...rest
  } = process.env
  return rest
}
