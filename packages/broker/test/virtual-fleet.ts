import type { FleetOs } from '../src/master/fleet/os.ts'
import type { ProcessExit, ChildEvents, RunningProcess } from '../src/supervise/child.ts'

/** A clock that the test advances. */
export class VirtualClock {
  #now = 1_000_000
  #timers: { at: number; callback: () => void }[] = []

  now = (): number => this.#now
  date = (): number => 1_700_000_000_000 + this.#now

  setTimeout = (callback: () => void, milliseconds: number) => {
    const timer = { at: this.#now + milliseconds, callback, unref: () => undefined }
    this.#timers.push(timer)
    return timer
  }

  clear = (timer: unknown): void => {
    this.#timers = this.#timers.filter((candidate) => candidate !== timer)
  }

  get timers(): number {
    return this.#timers.length
  }

  /** Stops its process for this time: timers that became due meanwhile are called once, late. */
  stall(milliseconds: number): void {
    this.#now += milliseconds
    const due = this.#timers.filter(({ at }) => at <= this.#now)
    for (const timer of due) {
      this.clear(timer)
      timer.callback()
    }
  }

  advance(milliseconds: number): void {
    const end = this.#now + milliseconds
    for (;;) {
      const due = this.#timers.filter(({ at }) => at <= end).toSorted((one, other) => one.at - other.at)[0]
      if (due === undefined) break
      this.#now = Math.max(this.#now, due.at)
      this.clear(due)
      due.callback()
    }
    this.#now = end
  }
}

/** A process that does only what the test says. */
export class VirtualProcess implements RunningProcess {
  readonly pid: number
  readonly env: NodeJS.ProcessEnv
  readonly command: readonly string[]
  readonly signals: string[] = []
  readonly #host: ChildEvents
  #over = false

  constructor(pid: number, command: readonly string[], env: NodeJS.ProcessEnv, host: ChildEvents) {
    this.pid = pid
    this.command = command
    this.env = env
    this.#host = host
  }

  get id(): string {
    return this.env['BATON_BACKEND_ID'] as string
  }

  get running(): boolean {
    return !this.#over
  }

  get numbers() {
    return this.#over ? undefined : { pid: this.pid, stdout: null, stderr: null, exit: null }
  }

  signal(signal: NodeJS.Signals): void {
    this.signals.push(signal)
  }

  write(text: string): void {
    this.#host.output('stdout', Buffer.from(text))
  }

  exit(exit: ProcessExit = { code: 0, signal: null }): void {
    if (this.#over) return
    this.#over = true
    this.#host.exited(exit)
  }

  close(): void {
    this.#over = true
  }
}

/** A system without processes. */
export class VirtualOs extends VirtualClock implements FleetOs {
  readonly processes: VirtualProcess[] = []
  #ids = 0

  id = (): string => `01ARZ3NDEKTSV4RRFFQ69G${String(++this.#ids).padStart(4, '0')}`

  start = (command: readonly string[], { env }: { env: NodeJS.ProcessEnv }, host: ChildEvents) => {
    const process = new VirtualProcess(100 + this.processes.length, command, env, host)
    this.processes.push(process)
    return process
  }

  adopt = (numbers: { pid: number }, host: ChildEvents) => {
    const process = new VirtualProcess(numbers.pid, [], {}, host)
    this.processes.push(process)
    return process
  }

  get running(): VirtualProcess[] {
    return this.processes.filter((process) => process.running)
  }

  get last(): VirtualProcess {
    return this.processes.at(-1) as VirtualProcess
  }
}
