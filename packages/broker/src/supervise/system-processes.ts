import { type ChildProcess, spawn } from 'node:child_process'
import { realpathSync, statSync } from 'node:fs'
import { type OwnedFd, type Poller, refuseDescriptors, socketpair } from '@baton/native-sendmsg'
import { errnoOf } from '../config/index.ts'
import { InheritedProcess, type ProcessHandle } from './inherited-process.ts'
import { LIFELINE, type Lifeline } from './lifeline.ts'
import { OutputPipe } from './output-pipe.ts'
import { signalGroup } from './process-group.ts'
import type { OutputStream } from './output.ts'
import type { ProcessExit, Processes, ProcessHost, ProcessNumbers, RunningProcess } from './processes.ts'

/**
 * After the exit, how long to wait for the next output, in ms. What the process wrote is in the socket already; only a process that it
 * has left behind, and that holds the other end, makes this wait go on.
 */
const OUTPUT_TIMEOUT_MS = 500

/** The same from the exit to the last output, in ms: what still comes then was written by a process left behind. */
const MAX_OUTPUT_WAIT = 10_000

/** From the descriptors 0 to 2 to LIFELINE: such an entry leaves the number closed. */
const CLOSED_BETWEEN = Array.from({ length: LIFELINE - 3 }, () => 'ignore' as const)

/**
 * @param poller tells the end of processes that were taken over
 * @param lifeline what each process inherits as LIFELINE
 */
export function systemProcesses(poller: Poller, lifeline: Pick<Lifeline, 'fd'>): Processes {
  return {
    start: (command, options, host) => startProcess(command, { ...options, lifeline: lifeline.fd }, host),
    takeOver(numbers, host) {
      const run = new Run(host, numbers.pid, numbers)
      if (numbers.exit !== null) run.ended(numbers.exit)
      else adopt(run, numbers.pid, poller)
      return run
    },
  }
}

function startProcess(
  [program = '', ...args]: readonly string[],
  {
    env,
    cwd,
    folder,
    lifeline,
  }: { env: NodeJS.ProcessEnv; cwd: string; folder?: string | undefined; lifeline: number },
  host: ProcessHost,
): RunningProcess {
  const open: OwnedFd[] = []
  const pair = () => {
    const ends = socketpair('stream')
    // The process could send descriptors along with its output.
    refuseDescriptors(ends[0].fd)
    open.push(...ends)
    return ends
  }
  let child: ChildProcess
  let run: Run
  try {
    const where = existingFolder(cwd, folder)
    const [stdout, childStdout] = pair()
    const [stderr, childStderr] = pair()
    // The descriptors are ours, not pipes of Node's: their numbers are known, so they can outlive this image.
    // A session of its own: Ctrl-C at the master's terminal is the master's to obey, who drains first.
    const stdio = ['ignore' as const, childStdout.fd, childStderr.fd, ...CLOSED_BETWEEN, lifeline]
    child = spawn(program, args, { env, cwd: where, stdio, detached: true })
    childStdout.close()
    childStderr.close()
    run = new Run(host, child.pid, { stdout: stdout.release(), stderr: stderr.release() })
  } catch (error) {
    for (const fd of open) fd.close()
    return neverStarted(error as Error, host)
  }
  child.on('error', (error) => {
    if (child.pid === undefined) run.ended(failedStart(error))
  })
  child.on('exit', (code, signal) => {
    signalLeftovers(child.pid)
    run.ended({ code, signal })
  })
  run.handle = {
    signal: (signal) => {
      child.kill(signal)
      if (signal === 'SIGKILL') signalLeftovers(child.pid, signal)
    },
    release: () => {
      child.removeAllListeners('exit')
      child.unref()
    },
  }
  return run
}

/**
 * `npm start`, or a shell, ends at SIGTERM and tells nobody: the app below it would go on, and serve beside its successor. Not
 * before the process itself has ended, which may need what it has started to finish its work.
 */
function signalLeftovers(leader: number | undefined, signal: NodeJS.Signals = 'SIGTERM'): void {
  if (leader !== undefined) signalGroup(leader, signal)
}

function failedStart(error: Error): ProcessExit {
  return { code: null, signal: null, error: error.message, errno: errnoOf(error) }
}

/**
 * A release folder belongs to the version that was deployed from it, so a process that is started again starts there, wherever a `current`
 * link leads meanwhile. Once that folder was removed, the link is all that there is. spawn(2) would name the program as missing.
 */
function existingFolder(cwd: string, folder = cwd): string {
  if (isFolder(cwd)) return cwd
  if (isFolder(folder)) return realpathSync(folder)
  throw new Error(`the working folder ${folder} is gone`)
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true
}

function neverStarted(error: Error, host: ProcessHost): RunningProcess {
  const told = setImmediate(() => host.exited(failedStart(error)))
  return { pid: undefined, numbers: undefined, signal() {}, close: () => clearImmediate(told) }
}

/** One process and our ends of its output. */
class Run implements RunningProcess {
  readonly pid: number | undefined
  /** Set by who makes it; absent once the process has ended. */
  handle: ProcessHandle | undefined
  readonly #host: ProcessHost
  readonly #pipes: Record<OutputStream, OutputPipe>
  #exit: ProcessExit | null = null
  #wait: NodeJS.Timeout | undefined
  /** As performance.now() has it. */
  #lastWait = 0
  #over = false

  /** Owns the descriptors. */
  constructor(
    host: ProcessHost,
    pid: number | undefined,
    fds: { stdout: number | null; stderr: number | null },
  ) {
    this.#host = host
    this.pid = pid
    const pipe = (stream: OutputStream) =>
      new OutputPipe(fds[stream], {
        data: (chunk) => {
          host.output(stream, chunk)
          // Reading takes turns with everything else that this process does, and can take longer than the wait.
          if (this.#exit !== null) this.#waitForOutput(this.#exit)
        },
        ended: () => this.#settle(),
      })
    this.#pipes = { stdout: pipe('stdout'), stderr: pipe('stderr') }
  }

  get numbers(): ProcessNumbers | undefined {
    if (this.#over || this.pid === undefined) return undefined
    const { stdout, stderr } = this.#pipes
    return { pid: this.pid, stdout: stdout.fd, stderr: stderr.fd, exit: this.#exit }
  }

  signal(signal: NodeJS.Signals): void {
    this.handle?.signal(signal)
  }

  close(): void {
    this.#over = true
    clearTimeout(this.#wait)
    this.handle?.release()
    this.handle = undefined
    this.#pipes.stdout.close()
    this.#pipes.stderr.close()
  }

  ended(exit: ProcessExit): void {
    this.handle = undefined
    this.#exit = exit
    this.#lastWait = performance.now() + MAX_OUTPUT_WAIT
    this.#waitForOutput(exit)
    // Not at once: `takeOver` has not returned yet.
    setImmediate(() => this.#settle())
  }

  #waitForOutput(exit: ProcessExit): void {
    if (this.#over || (this.#wait !== undefined && performance.now() > this.#lastWait)) return
    clearTimeout(this.#wait)
    this.#wait = setTimeout(() => this.#report(exit), OUTPUT_TIMEOUT_MS)
  }

  #settle(): void {
    const { stdout, stderr } = this.#pipes
    if (this.#exit !== null && stdout.fd === null && stderr.fd === null) this.#report(this.#exit)
  }

  #report(exit: ProcessExit): void {
    if (this.#over) return
    this.close()
    this.#host.exited(exit)
  }
}

function adopt(run: Run, pid: number, poller: Poller): void {
  try {
    run.handle = new InheritedProcess(pid, poller, (exit) => {
      signalLeftovers(pid)
      run.ended(exit)
    })
  } catch (error) {
    // Out of descriptors, or somebody else has reaped it: nobody will tell how it ends.
    run.ended({ code: null, signal: null, error: String(error) })
  }
}
