import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import type { Test } from 'tap'
import { run } from '../../packages/broker/dist/cli/program.js'
import { batonCommand } from './broker.ts'
import { cleanEnvironment, temporaryFolder } from './process.ts'

/** The result of `baton ARGS...`. */
export interface Said {
  readonly code: number | null
  /** Lines of standard output. */
  readonly out: readonly string[]
  /** Lines of standard error. */
  readonly err: readonly string[]
}

/** `baton ARGS...` in its own process, as a user starts it. */
export async function baton(
  t: Test,
  args: readonly string[],
  { cwd = temporaryFolder(t) }: { cwd?: string } = {},
): Promise<Said> {
  const child = spawn(process.execPath, [batonCommand, ...args], {
    cwd,
    env: cleanEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.teardown(() => child.kill('SIGKILL'))
  const [out, err, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { code, out: linesOf(out), err: linesOf(err) }
}

/** The same in this process, with the built code: most of the cost of a process is its start. */
export async function batonHere(...args: string[]): Promise<Said> {
  const out: string[] = []
  const err: string[] = []
  const code = await run(args, {
    out: (line) => out.push(...line.split('\n')),
    err: (line) => err.push(...line.split('\n')),
  })
  return { code, out, err }
}

function linesOf(written: string): string[] {
  return written === '' ? [] : written.replace(/\n$/, '').split('\n')
}
