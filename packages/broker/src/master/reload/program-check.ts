import { Child, type ProcessExit } from '../../supervise/child.ts'
import type { CommandLine } from './installed-program.ts'
import { strayEnd } from '../workers/thread-stats.ts'
import { afterStopped } from '../workers/stopped-time.ts'
import { CARRIED_PARTS_LABEL, STATE_VERSION, STATE_VERSION_VARIABLE } from '../../ipc/state-version.ts'

/** Loading the program takes a few tenths of a second, and up to half a minute on a starved machine. */
const CHECK_TIMEOUT_MS = 120_000

/** A check that has been stopped (SIGSTOP) for this long, in ms, is repeated. */
const STOPPED_TIMEOUT_MS = 2000

/** Maximum number of checks, if signals end them. */
const MAX_CHECKS = 20

export interface CheckedProgram {
  /** Why it cannot take over; undefined if it can. */
  readonly problem: string | undefined
  /** Optional parts of the state that it takes: see `CARRIED_PARTS`. */
  readonly takes: readonly string[]
}

/**
 * Runs the program that a reload would execute, as `baton check`, in a child: checks that it loads, accepts the
 * configuration, and can read this version of the state.
 *
 * @param cancelled kills the child
 */
export async function checkProgram(
  program: CommandLine,
  file: string,
  cancelled: AbortSignal,
): Promise<CheckedProgram> {
  for (let checks = 1; ; checks += 1) {
    const { code, signal, stopped, printed } = await check(program, file, cancelled)
    if (code === 0 && signal === null) return { problem: undefined, takes: partsIn(printed) }
    const stray = stopped || strayEnd({ code, signal }) !== undefined
    if (!stray || checks === MAX_CHECKS || cancelled.aborted)
      return {
        problem: `the new program does not load (${signal ?? `exit code ${code}`}): ${printed.trim()}`,
        takes: [],
      }
  }
}

/** None if it is of an older version. */
function partsIn(printed: string): readonly string[] {
  const line = printed.split('\n').find((each) => each.startsWith(CARRIED_PARTS_LABEL))
  return line?.slice(CARRIED_PARTS_LABEL.length).split(', ') ?? []
}

async function check({ node, args }: CommandLine, file: string, cancelled: AbortSignal) {
  let printed = ''
  let reported: (exit: ProcessExit) => void
  const exited = new Promise<ProcessExit>((resolve) => (reported = resolve))
  const env = { ...process.env, [STATE_VERSION_VARIABLE]: String(STATE_VERSION) }
  const child = Child.start(
    [node, ...args, 'check', '--config', file],
    { env, stdout: 'read', descriptors: [], leader: false },
    {
      output: (_stream, chunk) => (printed += chunk.toString()),
      exited: (exit) => reported(exit),
    },
  )
  const kill = () => child.signal('SIGKILL')
  const timeout = setTimeout(kill, CHECK_TIMEOUT_MS)
  cancelled.addEventListener('abort', kill)
  let stopped = false
  const cancel = afterStopped(child.pid ?? 0, STOPPED_TIMEOUT_MS, () => {
    stopped = true
    kill()
  })
  const { code, signal, error } = await exited
  clearTimeout(timeout)
  cancelled.removeEventListener('abort', kill)
  cancel()
  if (error !== undefined) return { code: 1, signal: null, stopped, printed: error }
  return { code, signal, stopped, printed }
}
