import { nearMiss } from '../config/near-miss.ts'
import { DONE, USAGE } from '../exit-codes.ts'
import { BROKER_VERSION } from '../version.ts'
import { UsageError, type Terminal } from './output/terminal.ts'
import { type CommandName, SUMMARIES } from './summaries.ts'

/**
 * Runs `baton ARGS...` and reports the result on the terminal.
 *
 * @returns the exit code: 0 success, 1 failure, 2 usage error; 126 or 127 when `baton run` cannot start its command
 */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  const [name, ...rest] = args
  if (name === '--help' || name === '-h') return print(terminal, overview())
  if (name === '--version') return print(terminal, BROKER_VERSION)
  try {
    if (name === undefined) throw new UsageError('missing command')
    if (!isCommand(name)) throw new UsageError(unknown(name))
    // Nothing above needs the code of the commands, and loading it takes longer than all of the above.
    const { runCommand } = await import('./commands.ts')
    return await runCommand(name, rest, terminal)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    terminal.err(`baton: ${error.message}`)
    terminal.err(`Try: baton ${isCommand(name) ? `${name} ` : ''}--help`)
    return USAGE
  }
}

function isCommand(name: string | undefined): name is CommandName {
  return name !== undefined && Object.hasOwn(SUMMARIES, name)
}

/** Commands of PM2, and what takes their place. */
const NAMES_IN_PM2: ReadonlyMap<string, string> = new Map(
  Object.entries({
    ls: ['list', 'l', 'ps'],
    status: ['show', 'describe', 'info', 'ping', 'jlist', 'prettylist'],
    deploy: ['restart'],
    top: ['monit'],
    stop: ['kill'],
    systemd: ['startup', 'unstartup'],
  }).flatMap(([ours, theirs]) => theirs.map((name) => [name, ours])),
)

function unknown(name: string): string {
  const kind = name.startsWith('-') ? 'option' : 'command'
  const known = kind === 'option' ? ['--help', '--version'] : Object.keys(SUMMARIES)
  const near = NAMES_IN_PM2.get(name) ?? nearMiss(name, known)
  return `unknown ${kind} ${JSON.stringify(name)}${near === undefined ? '' : ` (did you mean ${near}?)`}`
}

function overview(): string {
  const width = Math.max(...Object.keys(SUMMARIES).map((name) => name.length))
  return [
    'Usage: baton COMMAND [options]',
    '',
    'Hands client connections to backend processes on this host.',
    '',
    'Commands:',
    ...Object.entries(SUMMARIES).map(([name, summary]) => `  ${name.padEnd(width)}  ${summary}`),
    '',
    'Run `baton COMMAND --help` for details. `baton --version` prints the version.',
    'Exit codes: 0 success, 1 failure, 2 usage error.',
  ].join('\n')
}

function print(terminal: Terminal, text: string): number {
  terminal.out(text)
  return DONE
}
