import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Test } from 'tap'

/** The repository's root. */
export const root = join(import.meta.dirname, '../..')

/** A folder of its own for one test, short enough for Unix socket paths; gone with the test. */
export function temporaryFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'baton-t-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** tap puts its loader and its own variables into every child; a child of ours runs as a user's would. */
export function cleanEnvironment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) =>
      name !== 'NODE_OPTIONS' &&
      !name.startsWith('_TAPJS') &&
      !name.startsWith('TAP') &&
      !name.startsWith('BATON_'),
  )
  return { ...Object.fromEntries(kept), ...extra }
}

/** A child process whose output is kept by lines, and which does not outlive its test. */
export class Program {
  readonly child: ChildProcess
  readonly lines: string[] = []
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
  readonly #waiting = new Set<() => void>()

  constructor(
    t: Test,
    command: string,
    args: readonly string[],
    options: { env?: NodeJS.ProcessEnv; cwd?: string; uid?: number } = {},
  ) {
    this.child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: cleanEnvironment(options.env),
      cwd: options.cwd ?? root,
      ...(options.uid !== undefined && { uid: options.uid }),
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
    t.teardown(async () => {
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

  /** The first line that `matches`, of those that came and those to come; fails when the program ends without it. */
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

function parse(line: string): Record<string, unknown> | undefined {
  if (!line.startsWith('{')) return undefined
  try {
    return JSON.parse(line) as Record<string, unknown>
  } catch {
    return undefined
  }
}
