import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { signalGroup } from './signal.ts'

/** The repository's root. */
export const root = join(import.meta.dirname, '../..')

/** A temporary folder for one test, with a path short enough for Unix sockets; removed with the test. */
export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'baton-t-'))
  t.teardown(() => eventually(() => isRemoved(folder), `${folder} is removed`))
  return folder
}

/** False if something was created in it meanwhile: a managed backend outlives its broker by a moment, and may restore its folder for relays. */
function isRemoved(folder: string): boolean {
  try {
    rmSync(folder, { recursive: true, force: true })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOTEMPTY') throw error
    return false
  }
}

/** tap passes its loader and variables to every child; the tests' children run as a user's would. */
export function cleanEnvironment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) =>
      name !== 'NODE_OPTIONS' &&
      !name.startsWith('_TAPJS') &&
      !name.startsWith('TAP') &&
      // The whole suite may run with either library.
      (name === 'BATON_FFI' || !name.startsWith('BATON_')),
  )
  return { ...Object.fromEntries(kept), ...extra }
}

/** A child process whose output is stored line by line, and which does not outlive its test. */
export class Program {
  readonly child: ChildProcess
  readonly lines: string[] = []
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  readonly #waiting = new Set<() => void>()

  constructor(
    t: Test,
    command: string,
    args: readonly string[],
    /** `group`: for a shell, for example, whose own children must not outlive the test either. */
    options: { env?: NodeJS.ProcessEnv; cwd?: string; uid?: number; group?: boolean } = {},
  ) {
    this.child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: cleanEnvironment(options.env),
      cwd: options.cwd ?? root,
      ...(options.uid !== undefined && { uid: options.uid }),
      ...(options.group && { detached: true }),
    })
    for (const stream of [this.child.stdout, this.child.stderr]) {
      if (stream === null) continue
      createInterface({ input: stream }).on('line', (line) => {
        this.lines.push(line)
        this.#wake()
      })
    }
    this.exited = once(this.child, 'close').then(([code, signal]) => {
      this.#wake()
      return { code: code as number | null, signal: signal as NodeJS.Signals | null }
    })
    let closed = false
    this.child.once('close', () => (closed = true))
    t.teardown(async () => {
      if (options.group && !closed) killGroup(this.pid)
      this.kill('SIGKILL')
      await this.exited
    })
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error('the program did not start')
    return this.child.pid
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null
  }

  kill(signal: NodeJS.Signals): void {
    if (this.running) this.child.kill(signal)
  }

  /** Writes a line to its standard input, for programs that wait for a command. */
  say(line: string): void {
    this.child.stdin?.write(`${line}\n`)
  }

  /** The first line that `matches`, past or future; rejects if the program ends without it. */
  async line(matches: (line: string) => boolean, what: string): Promise<string> {
    for (let seen = 0; ;) {
      for (; seen < this.lines.length; seen++) {
        const line = this.lines[seen] as string
        if (matches(line)) return line
      }
      if (!this.running) {
        await this.exited
        if (seen < this.lines.length) continue
        throw new Error(`the program ended before it printed ${what}:\n${this.lines.join('\n')}`)
      }
      await new Promise<void>((resolve) => this.#waiting.add(resolve))
    }
  }

  /** The first JSON line with this `msg` (pino's) or this key. */
  async message(msg: string): Promise<Record<string, unknown>> {
    const line = await this.line((candidate) => parse(candidate)?.['msg'] === msg, `"${msg}"`)
    return parse(line) as Record<string, unknown>
  }

  /** All JSON lines so far. */
  messages(): Record<string, unknown>[] {
    return this.lines.map(parse).filter((message) => message !== undefined)
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve()
    this.#waiting.clear()
  }
}

/** The children may hold the output open after the leader has exited; `close` is not emitted until they are gone. */
function killGroup(leader: number): void {
  try {
    signalGroup(leader, 'SIGKILL')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

function parse(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch {
    return undefined
  }
}
