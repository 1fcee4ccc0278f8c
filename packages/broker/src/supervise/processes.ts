import type { OutputStream } from './output.ts'

/** How a process ended: a code or a signal, or why it could not be started. */
export interface ProcessExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly error?: string | undefined
  /** Of `error`, such as `ENOENT`. */
  readonly errno?: string | undefined
}

export interface ProcessHost {
  /** Bytes that the process wrote. */
  output(stream: OutputStream, chunk: Buffer): void
  /** Told once, after the last output. Never from within `start` or `takeOver`. */
  exited(exit: ProcessExit): void
}

/** What a process is known by across a re-execution of the master: numbers, which stay what they are. */
export interface ProcessNumbers {
  readonly pid: number
  /** Our ends; null once that stream has ended. */
  readonly stdout: number | null
  readonly stderr: number | null
  /** It has ended already, and its output is being read to the end. */
  readonly exit: ProcessExit | null
}

export interface RunningProcess {
  /** Undefined when it could not be started. */
  readonly pid: number | undefined
  /** Undefined when there is nothing left to take over. */
  readonly numbers: ProcessNumbers | undefined
  /** Does nothing once the process has ended: its pid may be a stranger's. */
  signal(signal: NodeJS.Signals): void
  /** Closes what we hold of it, and reports nothing any more. The process itself goes on. */
  close(): void
}

/** Where processes come from: the system (`systemProcesses`), or a test. */
export interface Processes {
  /** In `cwd`, or when that is gone where the links of `folder` lead now. */
  start(
    command: readonly string[],
    options: { env: NodeJS.ProcessEnv; cwd: string; folder?: string | undefined },
    host: ProcessHost,
  ): RunningProcess
  /** A process that this one started before it re-executed itself. Owns the descriptors from now on. */
  takeOver(numbers: ProcessNumbers, host: ProcessHost): RunningProcess
}
