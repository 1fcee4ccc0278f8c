import { errnoOf } from '../../config/error.ts'
import { leaveClosedTerminals } from '../../log/leave-terminals.ts'
import { wantsColours } from './colours.ts'
import type { Terminal } from './terminal.ts'
import { FAILED } from '../../exit-codes.ts'

/**
 * Standard output and standard error of a command that exits by itself. A command whose result cannot be written fails. It does not
 * fail when the reader of a pipe closes early (`baton status | head`), or when the terminal was closed.
 *
 * @param isResult whether the output is the purpose of the command
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
    // The error may come after the command has returned.
    if (failed) process.exitCode = FAILED
    stderr.write(`baton: standard output cannot be written: ${error.message}\n`)
  })
  // Nothing can be reported; the exit code remains.
  stderr.on('error', () => {})
  const terminal: Terminal = {
    out: (line) => stdout.write(`${line}\n`),
    err: (line) => stderr.write(`${line}\n`),
    ...displayOf(process),
    unread: unread.signal,
  }
  return { terminal, exitCode: (code) => (failed && code === 0 ? FAILED : code) }
}

/** The display on standard output; none for a file, a pipe, or a terminal without escape sequences (`TERM=dumb`). */
function displayOf(process: Pick<NodeJS.Process, 'stdin' | 'stdout' | 'env'>): Pick<Terminal, 'display'> {
  const { stdout, env } = process
  if (!stdout.isTTY || env['TERM'] === 'dumb') return {}
  const keyboard = () => (process.stdin.isTTY ? process.stdin : undefined)
  return { display: { colours: wantsColours(env), output: stdout, keyboard } }
}
