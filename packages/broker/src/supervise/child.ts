import { type ChildProcess, spawn } from 'node:child_process'
import {
  EPOLLIN,
  openProcess,
  OwnedFd,
  type Poller,
  reap,
  refuseDescriptors,
  socketpair,
} from '@baton/native-sendmsg'
import { errnoOf } from '../config/error.ts'
import type { OutputStream } from './output.ts'
import { OutputPipe } from './output-pipe.ts'
import { factsOf } from './proc.ts'
import { afterRunning } from './running-time.ts'

/**
 * Time without output after which output counts as complete once the process has exited, in ms of this process's running time. What the process
 * wrote is already in the socket; only a process that it left behind, and that holds the other end, keeps the stream open.
 */
const OUTPUT_TIMEOUT_MS = 500

/** Limit of that wait, in ms: later output was written by a process left behind. */
const MAX_OUTPUT_WAIT_MS = 10_000

/** Interval at which a child is checked when the kernel gives no pidfd for it, in ms. */
const REAP_INTERVAL_MS = 100

/** How a process ended: a code or a signal, or why it could not be started. */
export interface ProcessExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly error?: string | undefined
  /** Of `error`, such as `ENOENT`. */
  readonly errno?: string | undefined
}

/** Reports of a child to its owner. Nothing is reported from within `start` or `adopt`, or after `close`. */
export interface ChildEvents {
  /** Bytes that the process wrote. The buffer is reused after the call. */
  output(stream: OutputStream, chunk: Buffer): void
  /** Reported once, after the last output. */
  exited(exit: ProcessExit): void
}

/** Identifies a child across a re-execution of this program: its pid, and descriptors, which keep their numbers. */
export interface ChildNumbers {
  readonly pid: number
  /** Our ends; null for a stream that has ended, or is not read here. */
  readonly stdout: number | null
  readonly stderr: number | null
  /** Set when it has exited and its output is still being read. */
  readonly exit: ProcessExit | null
}

export interface StartOptions {
  readonly env: NodeJS.ProcessEnv
  /** Default: that of this process. */
  readonly cwd?: string
  /** Whether its stdout is read here, or is ours. Its stderr is always read. */
  readonly stdout: 'read' | 'inherit'
  /** Borrowed: the child has them as 3, 4 and so on. `ignore` leaves a number closed. */
  readonly descriptors: readonly (number | 'ignore')[]
  /** See `Child`. */
  readonly leader: boolean
}

export interface AdoptOptions {
  /** Reports the exit. Remains the caller's. */
  readonly poller: Poller
  /** As it was started. */
  readonly leader: boolean
  /**
   * It is no child of this process: another process, which has ended, had started it. When it was started, in clock ticks since boot; how it ends
   * cannot be known.
   */
  readonly foreign?: string | undefined
}

/** A child as its owner sees it. */
export interface RunningProcess {
  /** Undefined when it could not be started. */
  readonly pid: number | undefined
  /** Undefined when there is nothing left to adopt. */
  readonly numbers: ChildNumbers | undefined
  /** Does nothing once the process has exited: its pid may belong to another process. */
  signal(signal: NodeJS.Signals): void
  /** Closes our ends of its output, and reports nothing from then on. The process continues. */
  close(): void
}

/** Pids of the children of this process that have not been reaped yet. */
const own = new Set<number>()

/** Whether this process has started it, or the program that this one replaced: it is reaped by its owner. */
export function isOwnChild(pid: number): boolean {
  return own.has(pid)
}

/**
 * A child process and our ends of its output, from its start to its last output. It was started by this program, or by the one that
 * this program replaced.
 *
 *     running --exit--> exited --end of output, or no output for OUTPUT_TIMEOUT_MS--> reported
 *     running, exited --close--> closed
 *
 * A `leader` has a session and a process group of its own, so Ctrl-C at the terminal does not reach it. After its exit the rest of its
 * group gets SIGTERM: `npm start` and shells exit on SIGTERM without passing it on, and the app below them would keep serving next to its
 * successor. It is not signalled earlier, because the leader may need its children to finish. SIGKILL goes to the whole group.
 *
 * Owns the descriptors of its output, and reaps the process.
 */
export class Child implements RunningProcess {
  readonly pid: number | undefined
  readonly #leader: boolean
  readonly #events: ChildEvents
  readonly #pipes: Record<OutputStream, OutputPipe>
  #exit: ProcessExit | null = null
  #over = false
  /** Stops waiting for the exit. */
  #forget = () => {}
  /** Ends the wait for more output; undefined before the exit. */
  #stopReading: (() => void) | undefined
  /** By performance.now(). */
  #outputDeadline = 0

  /**
   * If the program cannot be executed, `pid` is undefined and `exited` reports why.
   *
   * @throws {NativeError} EMFILE and others from socketpair(2)
   * @throws errors of `spawn`
   */
  static start(
    [program = '', ...args]: readonly string[],
    options: StartOptions,
    events: ChildEvents,
  ): Child {
    const { env, cwd, leader, descriptors } = options
    const open: OwnedFd[] = []
    const pair = () => {
      const ends = socketpair('stream')
      // Otherwise the process could send descriptors along with its output.
      refuseDescriptors(ends[0].fd)
      open.push(...ends)
      return ends
    }
    try {
      // Sockets made here, not pipes made by Node: their numbers are known, so they can cross an exec of this program.
      const [stderr, childStderr] = pair()
      const [stdout, childStdout] = options.stdout === 'read' ? pair() : []
      const stdio = [
        'ignore' as const,
        childStdout?.fd ?? ('inherit' as const),
        childStderr.fd,
        ...descriptors,
      ]
      const process = spawn(program, args, { env, cwd, stdio, detached: leader })
      childStdout?.close()
      childStderr.close()
      const numbers = { stdout: stdout?.release() ?? null, stderr: stderr.release() }
      const child = new Child(process.pid, numbers, leader, events)
      child.#forget = awaitStarted(process, (exit) => child.#exited(exit))
      return child
    } catch (error) {
      for (const fd of open) fd.close()
      throw error
    }
  }

  /** A child of this process that the program before this one started. Owns the descriptors from now on. */
  static adopt(numbers: ChildNumbers, { poller, leader, foreign }: AdoptOptions, events: ChildEvents): Child {
    const { pid, exit } = numbers
    const child = new Child(pid, numbers, leader, events)
    const check = foreign === undefined ? () => reapIfExited(pid) : () => exitOfForeign(pid, foreign)
    if (exit === null) child.#forget = awaitAdopted(pid, poller, check, (ended) => child.#exited(ended))
    else {
      own.delete(pid)
      child.#readToEnd(exit)
    }
    return child
  }

  private constructor(
    pid: number | undefined,
    fds: Pick<ChildNumbers, OutputStream>,
    leader: boolean,
    events: ChildEvents,
  ) {
    this.pid = pid
    if (pid !== undefined) own.add(pid)
    this.#leader = leader
    this.#events = events
    const pipe = (stream: OutputStream) =>
      new OutputPipe(fds[stream], {
        data: (chunk) => {
          events.output(stream, chunk)
          // Reading shares the event loop with everything else, and can take longer than the timeout.
          if (this.#exit !== null) this.#awaitOutput(this.#exit)
        },
        ended: () => this.#settle(),
      })
    this.#pipes = { stdout: pipe('stdout'), stderr: pipe('stderr') }
  }

  /** Whether it has not exited yet. */
  get running(): boolean {
    return this.#exit === null && !this.#over
  }

  get numbers(): ChildNumbers | undefined {
    if (this.#over || this.pid === undefined) return undefined
    const { stdout, stderr } = this.#pipes
    return { pid: this.pid, stdout: stdout.fd, stderr: stderr.fd, exit: this.#exit }
  }

  signal(signal: NodeJS.Signals): void {
    if (this.pid === undefined || !this.running) return
    send(this.pid, signal)
    if (this.#leader && signal === 'SIGKILL') send(-this.pid, signal)
  }

  close(): void {
    this.#over = true
    this.#stopReading?.()
    this.#stopWaiting()
    this.#pipes.stdout.close()
    this.#pipes.stderr.close()
  }

  #exited(exit: ProcessExit): void {
    this.#stopWaiting()
    if (this.pid !== undefined) own.delete(this.pid)
    if (this.#leader && this.pid !== undefined) send(-this.pid, 'SIGTERM')
    this.#readToEnd(exit)
  }

  #stopWaiting(): void {
    this.#forget()
    this.#forget = () => {}
  }

  #readToEnd(exit: ProcessExit): void {
    this.#exit = exit
    this.#outputDeadline = performance.now() + MAX_OUTPUT_WAIT_MS
    this.#awaitOutput(exit)
    // Not at once: `adopt` has not returned yet.
    setImmediate(() => this.#settle())
  }

  #awaitOutput(exit: ProcessExit): void {
    if (this.#over || (this.#stopReading !== undefined && performance.now() > this.#outputDeadline)) return
    this.#stopReading?.()
    this.#stopReading = afterRunning(OUTPUT_TIMEOUT_MS, () => this.#report(exit))
  }

  #settle(): void {
    const { stdout, stderr } = this.#pipes
    if (this.#exit !== null && stdout.fd === null && stderr.fd === null) this.#report(this.#exit)
  }

  #report(exit: ProcessExit): void {
    if (this.#over) return
    this.close()
    this.#events.exited(exit)
  }
}

/** The exit that is reported for a process that could not be started. */
export function startFailure(error: Error): ProcessExit {
  return { code: null, signal: null, error: error.message, errno: errnoOf(error) }
}

/** @returns stops waiting; the process no longer keeps this one alive */
function awaitStarted(child: ChildProcess, exited: (exit: ProcessExit) => void): () => void {
  child.on('error', (error) => {
    // Other errors are of `kill`, which is not used.
    if (child.pid === undefined) exited(startFailure(error))
  })
  child.on('exit', (code, signal) => exited({ code, signal }))
  return () => {
    child.removeAllListeners('exit')
    child.unref()
  }
}

/**
 * Node has no `ChildProcess` for it. A pidfd becomes readable when the process has exited (pidfd_open(2)), and its pid is not reused
 * before it is reaped. Without a pidfd (too many open files, for one) the child is checked from time to time.
 *
 * @returns stops waiting
 */
function awaitAdopted(
  pid: number,
  poller: Poller,
  ended: () => ProcessExit | undefined,
  exited: (exit: ProcessExit) => void,
): () => void {
  const check = () => {
    const exit = ended()
    if (exit !== undefined) exited(exit)
  }
  let pidfd: OwnedFd | undefined
  try {
    pidfd = openProcess(pid)
    const { fd } = pidfd
    const watch = poller.add(fd, EPOLLIN, check)
    return () => {
      watch.remove()
      pidfd?.close()
    }
  } catch {
    pidfd?.close()
    const timer = setInterval(check, REAP_INTERVAL_MS)
    return () => clearInterval(timer)
  }
}

/** Undefined while it lives. Its parent, such as init, may not have reaped it yet. */
function exitOfForeign(pid: number, startedAt: string): ProcessExit | undefined {
  const facts = factsOf(pid)
  const lives = facts?.startedAt === startedAt && facts.state !== 'Z' && facts.state !== 'X'
  return lives ? undefined : { code: null, signal: null }
}

/** Undefined while it lives. */
function reapIfExited(pid: number): ProcessExit | undefined {
  try {
    return reap(pid)
  } catch (error) {
    // ECHILD: it was reaped already, so how it ended is unknown.
    return { code: null, signal: null, error: String(error) }
  }
}

/**
 * @param pid negative for a process group. The pid of its leader names a group for as long as it has a member, and is not reused before
 * (credentials(7)).
 */
function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // ESRCH: it has just exited, or the group is empty. EPERM: it belongs to another user now.
  }
}
