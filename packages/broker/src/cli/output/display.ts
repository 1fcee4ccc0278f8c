import { wantsColours } from './colours.ts'
import type { Terminal } from './terminal.ts'

/** What standard output is to a command; nothing for a file, a pipe, or a terminal that says that it can do little. */
export function displayOf(
  process: Pick<NodeJS.Process, 'stdin' | 'stdout' | 'env'>,
): Pick<Terminal, 'display'> {
  const { stdout, env } = process
  if (!stdout.isTTY || env['TERM'] === 'dumb') return {}
  const keyboard = () => (process.stdin.isTTY ? process.stdin : undefined)
  return { display: { colours: wantsColours(env), output: stdout, keyboard } }
}
