import { existsSync, readlinkSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { OwnedFd, type Poller, socketpair } from '@baton/native-sendmsg'
import { BrokerError } from '../../errors.ts'
import { packageFile } from '../../package-files.ts'
import type { LogFormat } from '../../log/logger.ts'
import { Child, type ChildEvents, type ProcessExit } from '../../supervise/child.ts'

const PROGRAM = fileURLToPath(packageFile('dist/bundle/worker.js'))

/** A started worker that crosses the master's exec. */
export interface StartedWorkerState {
  readonly pid: number
  readonly channel: number
  /** Null if it has closed it. */
  readonly stderr: number | null
}

/**
 * The process of a worker that loads its program, before a `WorkerProcess` gives it orders. It can be started before anything is known about its
 * work, because all of that comes over the channel.
 *
 * Owns the process and the channel until `take`. A process whose channel is closed without an order exits.
 */
export class StartedWorker {
  readonly pid: number
  readonly #child: Child
  readonly #channel: OwnedFd
  #events: ChildEvents | undefined
  /** Output from before the call of `take`. */
  readonly #chunks: Buffer[] = []
  #exit: ProcessExit | undefined

  /**
   * @param node to run it with
   * @throws {BrokerError} BATON_ERR_PROGRAM_GONE, BATON_ERR_WORKER_FAILED
   * @throws {NativeError} EMFILE and others
   */
  static start(node: string, format: LogFormat): StartedWorker {
    if (!existsSync(PROGRAM)) throw new BrokerError('BATON_ERR_PROGRAM_GONE', PROGRAM)
    const command = [node, ...youngGeneration(), ...process.execArgv, PROGRAM, format]
    const [channel, theirs] = socketpair('stream')
    const options = {
      env: environment(),
      stdout: 'inherit',
      // Its number there is WORKER_CHANNEL.
      descriptors: [theirs.fd],
      leader: false,
    } as const
    try {
      return new StartedWorker(channel, (events) => {
        const child = Child.start(command, options, events)
        if (child.pid !== undefined) return [child, child.pid]
        child.close()
        throw new BrokerError('BATON_ERR_WORKER_FAILED', `${node} cannot be started`)
      })
    } catch (error) {
      channel.close()
      throw error
    } finally {
      theirs.close()
    }
  }

  /** Owns the descriptors that the state names. */
  static adopt({ pid, channel, stderr }: StartedWorkerState, poller: Poller): StartedWorker {
    const numbers = { pid, stdout: null, stderr, exit: null }
    return new StartedWorker(new OwnedFd(channel), (events) => [
      Child.adopt(numbers, { poller, leader: false }, events),
      pid,
    ])
  }

  private constructor(channel: OwnedFd, run: (events: ChildEvents) => [child: Child, pid: number]) {
    this.#channel = channel
    const [child, pid] = run({
      output: (stream, chunk) => {
        if (this.#events === undefined) this.#chunks.push(Buffer.from(chunk))
        else this.#events.output(stream, chunk)
      },
      exited: (exit) => {
        this.#exit = exit
        this.#events?.exited(exit)
      },
    })
    this.#child = child
    this.pid = pid
  }

  get running(): boolean {
    return this.#child.running
  }

  /** Its log is another file than this process's, which was reopened after the start. */
  get hasFormerLog(): boolean {
    try {
      // Only their names: a log on a file system that hangs must not be looked at here.
      return readlinkSync(`/proc/${this.pid}/fd/1`) !== readlinkSync('/proc/self/fd/1')
    } catch {
      // It has ended, or has closed it.
      return false
    }
  }

  /** For the next program to adopt it; undefined if it has ended. Its descriptors must stay open. */
  get state(): StartedWorkerState | undefined {
    const { pid, numbers } = { pid: this.pid, numbers: this.#child.numbers }
    if (!this.running || numbers === undefined) return undefined
    return { pid, channel: this.#channel.fd, stderr: numbers.stderr }
  }

  /** The caller owns both from now on. What the process has done before is reported after this call. */
  take(events: ChildEvents): { readonly child: Child; readonly channel: OwnedFd } {
    queueMicrotask(() => {
      this.#events = events
      for (const chunk of this.#chunks.splice(0)) events.output('stderr', chunk)
      if (this.#exit !== undefined) events.exited(this.#exit)
    })
    return { child: this.#child, channel: this.#channel }
  }

  /** It is not needed. It serves nothing yet. */
  end(): void {
    this.#channel.close()
    this.#child.signal('SIGKILL')
  }
}

/**
 * Hardly anything that a worker allocates lives long. By default V8 lets the young generation grow to three times 16 MiB, which stays
 * resident: more than 10,000 held clients need. A value in NODE_OPTIONS or on the master's command line takes precedence.
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
    FDSTORE: _store,
    ...rest
  } = process.env
  return rest
}
