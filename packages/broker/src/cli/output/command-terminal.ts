import { errnoOf } from '../../config/error.ts'
import { leaveClosedTerminals } from '../../log/leave-terminals.ts'
import { wantsColours } from './colours.ts'
import type { Terminal } from './terminal.ts'
import { FAILED } from '../../exit-codes.ts'

/**
 * Standard output and standard error of a command that ends. A command whose result cannot be written has failed. The reader of a pipe
 * that has seen enough (`baton status | head`) and a terminal that was closed are no failure.
 *
 * @param isResult whether what the command prints is what it was run for
 */
export function commandTerminal(
  process: Pick<NodeJS.Process, 'stdin' | 'stdout' | 'stderr' | 'env' | 'exitCode'>,
  isResult: boolean,
): { terminal: Terminal; exitCode: (code: number) => number } {
  const { stdout, stderr } = process
  globalThis.process.once('exit', leaveClosedTerminals)
  const unread = new AbortController()
  let failed = false
  stdout.on('error', (error) => {
    const errno = errnoOf(error)
    const first = !unread.signal.aborted
    unread.abort()
    if (!first || errno === 'EPIPE' || (errno === 'EIO' && stdout.isTTY)) return
    failed = isResult
    // It may come after the command has ended.
    if (failed) process.exitCode = FAILED
    stderr.write(`baton: standard output cannot be written: ${error.message}\n`)
  })
  // Where nothing can be said, the exit code is left.
  stderr.on('error', () => {})
  const terminal: Terminal = {
    out: (line) => stdout.write(`${line}\n`),
    err: (line) => stderr.write(`${line}\n`),
    ...displayOf(process),
    unread: unread.signal,
  }
  return { terminal, exitCode: (code) => (failed && code === 0 ? FAILED : code) }
}

/** What standard output is to a command; nothing for a file, a pipe, or a terminal that says that it can do little. */
function displayOf(process: Pick<NodeJS.Process, 'stdin' | 'stdout' | 'env'>): Pick<Terminal, 'display'> {
  const { stdout, env } = process
  if (!stdout.isTTY || env['TERM'] === 'dumb') return {}
  const keyboard = () => (process.stdin.isTTY ? process.stdin : undefined)
  return { display: { colours: wantsColours(env), output: stdout, keyboard } }
}
