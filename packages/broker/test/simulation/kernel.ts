import type { Clock, Timer } from '@baton/backend-sdk/protocol'

/** A rule was broken. The kernel keeps it as well, because the code under test may catch exceptions thrown through it. */
export class Violation extends Error {}

/** Thrown through the code of a process that has just been killed, so that it does nothing more. */
export class Killed extends Error {}

/** An open file description: it lives as long as a process, or a message in flight, refers to it. */
export abstract class File {
  readonly label: string
  readonly holders = new Map<Process, number>()
  inFlight = 0

  constructor(label: string) {
    this.label = label
  }

  get open(): boolean {
    return this.inFlight > 0 || this.holders.size > 0
  }

  /** The last reference is gone. `by`: its process; undefined if it was in flight. */
  abstract released(by: Process | undefined): void
}

interface SimulatedTimer extends Timer {
  readonly due: number
  readonly order: number
  readonly run: () => void
}

/** Actions of the scheduler at a process's system calls. */
export interface Interrupts {
  /** Other processes may run meanwhile, for any length of time. */
  preempt(process: Process): void
}

/** A bug in the kernel (or in code next to it), to check that the rules detect it. */
export type Sabotage =
  | 'a write is believed before the kernel has accepted it'
  | 'control is not read to its end'
  | 'a read-back leaves the message on the lane'
  | 'a refused descriptor stays open'
  | 'a byte is read between the check and letting go'
  | 'a giver does not keep a duplicate'
  | 'what is given back is not closed first'
  | 'the flags of a giver stay'

/** Time, descriptors and the log of one schedule. */
export class Kernel {
  /** Milliseconds. */
  now = 1000
  violation: Violation | undefined
  interrupts: Interrupts = { preempt: () => undefined }
  readonly sabotage: Sabotage | undefined
  readonly #log: ((line: string) => void) | undefined
  #fds = 100
  #timers = 0

  constructor(options: { log?: ((line: string) => void) | undefined; sabotage?: Sabotage | undefined } = {}) {
    this.#log = options.log
    this.sabotage = options.sabotage
  }

  get tracing(): boolean {
    return this.#log !== undefined
  }

  trace(who: string, what: string): void {
    this.#log?.(`${this.now.toFixed(0).padStart(7)} ms  ${who.padEnd(10)} ${what}`)
  }

  violate(rule: string): never {
    this.violation ??= new Violation(rule)
    throw this.violation
  }

  /** Numbers are not reused, so that a second close is detected. */
  nextFd(): number {
    return ++this.#fds
  }

  nextTimer(): number {
    return ++this.#timers
  }
}

/** One process: its descriptors, its timers, and the pending work of its event loop. */
export class Process implements Clock {
  readonly name: string
  readonly kernel: Kernel
  alive = true
  /** SIGSTOP, or an endless loop. */
  frozen = false
  /** Stopped in the middle of a system call, while others run. */
  suspended = 0
  /** Number of stops at system calls until it is killed. */
  fuse: number | undefined
  readonly tasks: (() => void)[] = []
  readonly #fds = new Map<number, File>()
  readonly #timers = new Set<SimulatedTimer>()

  constructor(kernel: Kernel, name: string) {
    this.kernel = kernel
    this.name = name
  }

  get runnable(): boolean {
    return this.alive && !this.frozen && this.suspended === 0
  }

  get files(): readonly File[] {
    return [...this.#fds.values()]
  }

  /** Processes are killed or preempted only here: before or after the kernel has performed the call. */
  call<T>(what: string, perform: () => T): T {
    this.#stop()
    const result = perform()
    if (this.kernel.tracing) this.kernel.trace(this.name, what)
    this.#stop()
    return result
  }

  /** A new number for `file`. */
  open(file: File): number {
    const fd = this.kernel.nextFd()
    this.#fds.set(fd, file)
    file.holders.set(this, (file.holders.get(this) ?? 0) + 1)
    return fd
  }

  file(fd: number): File {
    if (!this.alive) throw new Killed(this.name)
    return this.#fds.get(fd) ?? this.kernel.violate(`I6: ${this.name} uses fd ${fd}, which is not open`)
  }

  close(fd: number): void {
    const { label } = this.file(fd)
    this.call(`close ${label} (fd ${fd})`, () => this.#drop(fd, this))
  }

  /**
   * SIGKILL: it does nothing more. What it wrote stays where it is; the kernel closes its open descriptors in some order,
   * while other processes run (`reap`).
   */
  kill(): void {
    if (!this.alive) return
    this.kernel.trace(this.name, '*** killed')
    this.alive = false
    this.tasks.length = 0
    this.#timers.clear()
  }

  /** Dead, with descriptors still open. */
  get dying(): boolean {
    return !this.alive && this.#fds.size > 0
  }

  /** The kernel closes one descriptor of a dead process. `draw`: uniform in [0, 1). */
  reap(draw: number): void {
    const fds = [...this.#fds.keys()]
    const fd = fds[Math.floor(draw * fds.length)]
    if (fd !== undefined) this.#drop(fd, this)
  }

  now(): number {
    return this.kernel.now
  }

  hrtime(): bigint {
    return BigInt(Math.round(this.kernel.now * 1e6))
  }

  setTimeout(callback: () => void, milliseconds: number): Timer {
    return this.#set(callback, milliseconds)
  }

  setInterval(callback: () => void, milliseconds: number): Timer {
    // The interval's handle stays the same while the timer behind it changes.
    const handle = { unref: () => handle }
    const arm = () => {
      this.#intervals.set(
        handle,
        this.#set(() => {
          arm()
          callback()
        }, milliseconds),
      )
    }
    arm()
    return handle
  }

  readonly #intervals = new Map<Timer, SimulatedTimer>()

  clear(timer: Timer | undefined): void {
    if (timer === undefined) return
    this.#timers.delete(this.#intervals.get(timer) ?? (timer as SimulatedTimer))
    this.#intervals.delete(timer)
  }

  /** When its next timer is due. */
  get nextDue(): number | undefined {
    return this.#first()?.due
  }

  runTimer(): void {
    const timer = this.#first()
    if (timer === undefined) return
    this.#timers.delete(timer)
    timer.run()
  }

  #first(): SimulatedTimer | undefined {
    let first: SimulatedTimer | undefined
    for (const timer of this.#timers) {
      if (
        first === undefined ||
        timer.due < first.due ||
        (timer.due === first.due && timer.order < first.order)
      )
        first = timer
    }
    return first
  }

  #set(run: () => void, milliseconds: number): SimulatedTimer {
    const timer: SimulatedTimer = {
      due: this.kernel.now + Math.max(1, milliseconds),
      order: this.kernel.nextTimer(),
      run,
      unref: () => timer,
    }
    if (this.alive) this.#timers.add(timer)
    return timer
  }

  #drop(fd: number, by: Process): void {
    const file = this.#fds.get(fd) as File
    this.#fds.delete(fd)
    const left = (file.holders.get(this) as number) - 1
    if (left > 0) file.holders.set(this, left)
    else file.holders.delete(this)
    if (!file.open) file.released(by)
  }

  #stop(): void {
    if (this.alive && this.fuse !== undefined && this.fuse-- <= 0) this.kill()
    if (this.alive) this.kernel.interrupts.preempt(this)
    if (!this.alive) throw new Killed(this.name)
  }
}
