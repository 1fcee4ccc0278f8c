import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { cleanEnvironment } from './process.ts'

/** A command with its own keyboard and screen: script(1) gives it a pseudo-terminal. */
export class PseudoTerminal {
  /** Everything it has received, escape sequences included. */
  output = ''
  readonly #child: ChildProcess
  readonly #ended: Promise<unknown>

  /** @param command a shell command */
  constructor(
    t: Test,
    command: string,
    { columns = 120, rows = 30, env = {} }: { columns?: number; rows?: number; env?: NodeJS.ProcessEnv } = {},
  ) {
    const whole = `stty rows ${rows} cols ${columns}; ${command}`
    this.#child = spawn('script', ['-qec', whole, '/dev/null'], {
      env: cleanEnvironment({ TERM: 'xterm-256color', NO_COLOR: undefined, SHELL: '/bin/sh', ...env }),
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.output += text))
    this.#ended = once(this.#child, 'close')
    t.teardown(async () => {
      // Killing script(1) hangs up the terminal: the program in it gets SIGHUP.
      this.#child.kill('SIGKILL')
      await this.#ended
    })
  }

  /** Types on the keyboard. */
  type(text: string): void {
    this.#child.stdin?.write(text)
  }

  /** Like closing the terminal's window. */
  async hangUp(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }

  /** Resolves with the match of `pattern` in the output since `from`. */
  async shows(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    let found: RegExpExecArray | null = null
    await eventually(
      () => (found = pattern.exec(this.output.slice(from))) !== null,
      () => `${pattern} on the terminal:\n${JSON.stringify(this.output.slice(from))}`,
    )
    return found as unknown as RegExpExecArray
  }

  /** The complete output, once the command has ended. */
  async end(): Promise<string> {
    await this.#ended
    return this.output
  }
}
