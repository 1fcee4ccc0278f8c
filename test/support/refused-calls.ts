import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { eventually } from './eventually.ts'
import { Program, temporaryFolder } from './process.ts'

/** Why a test that traces is skipped; false if strace is installed, and may trace (ptrace(2) is not everywhere). */
export const cannotTrace =
  spawnSync('strace', ['-o', '/dev/null', 'true']).status !== 0 && 'strace is not installed, or may not trace'

/** The kernel answers a system call of a process with an error: strace(1) injects it. */
export class RefusedCalls {
  readonly #program: Program
  readonly #file: string

  private constructor(program: Program, file: string) {
    this.#program = program
    this.#file = file
  }

  /**
   * Resolves when calls are refused.
   *
   * @param times how many of them, in each thread
   */
  static async begin(
    t: Test,
    pid: number,
    call: string,
    error: string,
    times = Number.POSITIVE_INFINITY,
  ): Promise<RefusedCalls> {
    const file = join(temporaryFolder(t), 'refused')
    const when = Number.isFinite(times) ? `:when=1..${times}` : ''
    const inject = `inject=${call}:error=${error}${when}`
    const program = new Program(t, 'strace', ['-f', '-p', String(pid), '-o', file, '-e', inject])
    await program.line((line) => line.includes(`Process ${pid} attached`), 'strace is attached')
    return new RefusedCalls(program, file)
  }

  /** Calls that were refused so far. */
  get count(): number {
    return existsSync(this.#file) ? readFileSync(this.#file, 'utf8').split('(INJECTED)').length - 1 : 0
  }

  /** Resolves when `count` calls have been refused. */
  refused(count = 1): Promise<void> {
    return eventually(() => this.count >= count, `${count} calls are refused`)
  }

  /** Calls are answered again. */
  async end(): Promise<void> {
    this.#program.kill('SIGINT')
    await this.#program.exited
  }
}
