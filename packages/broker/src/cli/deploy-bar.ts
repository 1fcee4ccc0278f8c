import type { WriteStream } from 'node:tty'

// Loaded when it is needed, so it imports nothing that other commands need too.

/** Width of the bar, in columns. */
const WIDTH = 24

/** Interval at which the time is drawn again, in ms. */
const REDRAW_MS = 1000

/** Steps of one instance, in their order. */
const STEPS = ['started', 'ready', 'draining', 'stopped']

/** The event that a deploy waits for after a step. */
const WAITS: Readonly<Record<string, (instance: string, text: string) => string>> = {
  started: (instance) => `${instance}: waiting until the new process is ready`,
  ready: (instance, text) => `${instance}: ${text}`,
  canary: (_, text) => text,
  draining: (instance) => `${instance}: the old process drains, then exits`,
  stopped: (instance) => `${instance}: replaced`,
  aborted: (_, text) => text,
}

/** The state of a deploy, from its progress lines (`ready web.1: ...`). */
export class DeployState {
  readonly #instances: number
  /** Steps that each instance has behind it. */
  #steps = new Map<string, number>()
  /** The event that it waits for. */
  waits = 'waiting for the broker'

  /** @param instances that are to be replaced */
  constructor(instances: number) {
    this.#instances = Math.max(1, instances)
  }

  push(line: string): void {
    const [, step = '', instance = '', text = ''] = /^(\w+) (\S+): (.*)$/.exec(line) ?? []
    this.waits = WAITS[step]?.(instance, text) ?? this.waits
    // Instances that were replaced return to the old version.
    if (step === 'aborted') this.#steps = new Map()
    const done = STEPS.indexOf(step) + 1
    if (done > 0) this.#steps.set(instance, done)
  }

  /** From 0 to 1. */
  get share(): number {
    const done = [...this.#steps.values()].reduce((sum, steps) => sum + steps, 0)
    return Math.min(1, done / (this.#instances * STEPS.length))
  }

  /** `2/4`: instances that are replaced. */
  get count(): string {
    const replaced = [...this.#steps.values()].filter((steps) => steps === STEPS.length).length
    return `${replaced}/${Math.max(this.#instances, this.#steps.size)}`
  }
}

/** A line at the bottom of a terminal that shows how far a deploy is, and the step that it waits for. Other lines go above it. */
export class DeployBar {
  readonly #state: DeployState
  readonly #output: Pick<WriteStream, 'write' | 'columns'>
  readonly #timer: NodeJS.Timeout
  #since = performance.now()

  constructor(instances: number, output: Pick<WriteStream, 'write' | 'columns'>) {
    this.#state = new DeployState(instances)
    this.#output = output
    this.#timer = setInterval(() => this.#draw(), REDRAW_MS)
    this.#draw()
  }

  /** A progress line of the deploy. */
  push(line: string): void {
    this.#state.push(line)
    this.#since = performance.now()
    this.#output.write(`${CLEAR}${line}\n`)
    this.#draw()
  }

  /** Removes it. */
  end(): void {
    clearInterval(this.#timer)
    this.#output.write(CLEAR)
  }

  #draw(): void {
    const { share, count, waits } = this.#state
    const full = Math.round(share * WIDTH)
    const bar = `${'█'.repeat(full)}${'░'.repeat(WIDTH - full)}`
    const seconds = Math.floor((performance.now() - this.#since) / 1000)
    const line = `${bar} ${count}  ${waits}${seconds > 0 ? `  ${seconds} s` : ''}`
    // A line that reaches the last column would move the next one down.
    this.#output.write(`${CLEAR}${line.slice(0, (this.#output.columns || 80) - 1)}`)
  }
}

/** To the beginning of the line, and erases it. */
const CLEAR = '\r\u001b[2K'
