import { ConfigError, errnoOf } from '../config/error.ts'
import { nearMiss } from '../config/near-miss.ts'
import { describeError } from '../errors.ts'
import { NoAnswerError } from '../ipc/operator-client.ts'
import { BROKER_VERSION } from '../version.ts'
import { check } from './commands/check.ts'
import { helpOf, parseInvocation, type Command, type Invocation } from './command.ts'
import { completionOf } from './commands/completion.ts'
import { deploy } from './commands/deploy.ts'
import { drain } from './commands/drain.ts'
import { events } from './commands/events.ts'
import { init } from './commands/init.ts'
import { logs } from './commands/logs.ts'
import { ls } from './commands/ls.ts'
import { maintenance } from './commands/maintenance.ts'
import { pause, resume } from './commands/pause.ts'
import { reload } from './commands/reload.ts'
import { runApp } from './commands/run.ts'
import { scale } from './commands/scale.ts'
import { shift } from './commands/shift.ts'
import { start } from './commands/start.ts'
import { status } from './commands/status.ts'
import { stop } from './commands/stop.ts'
import { systemd } from './commands/systemd.ts'
import { top } from './commands/top.ts'
import { trace } from './commands/trace.ts'
import { UsageError, type Terminal } from './output/terminal.ts'
import { DONE, FAILED, USAGE, CommandError } from '../exit-codes.ts'

const COMMANDS: readonly Command[] = [
  runApp,
  init,
  start,
  stop,
  check,
  reload,
  deploy,
  scale,
  shift,
  ls,
  status,
  top,
  events,
  logs,
  trace,
  drain,
  pause,
  resume,
  maintenance,
  systemd,
  completionOf(() => COMMANDS),
]

/**
 * Runs `baton ARGS...` and reports the result on the terminal.
 *
 * @returns the exit code: 0 success, 1 failure, 2 usage error; 126 or 127 when `baton run` cannot start its command
 */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  const [name, ...rest] = args
  if (name === '--help' || name === '-h') return print(terminal, overview())
  if (name === '--version') return print(terminal, BROKER_VERSION)

  const command = COMMANDS.find((candidate) => candidate.name === name)
  let invocation: Invocation | undefined
  try {
    if (command === undefined) throw new UsageError(name === undefined ? 'missing command' : unknown(name))
    invocation = parseInvocation(command, rest)
    if (invocation.switches.has('help')) return print(terminal, helpOf(command))
    return await command.run(invocation, terminal)
  } catch (error) {
    if (!(error instanceof UsageError))
      return fail(error, terminal, invocation?.switches.has('json') === true)
    terminal.err(`baton: ${error.message}`)
    terminal.err(`Try: baton ${command === undefined ? '' : `${command.name} `}--help`)
    return USAGE
  }
}

/**
 * Prints why a command failed. Expected errors have a complete message, and a code where the page of errors has one; any other error
 * is a defect, and its stack is printed.
 *
 * @param json prints the error on standard output as well, in the shape of the admin API
 */
function fail(error: unknown, terminal: Terminal, json: boolean): number {
  const text = isExpected(error) ? describeError(error) : error instanceof Error ? error.stack : String(error)
  // The problems of a configuration begin with the name of its file.
  terminal.err(error instanceof ConfigError ? describeError(error) : `baton: ${text}`)
  if (json) {
    const { message = String(error), code = null } = Object(error) as { message?: string; code?: string }
    terminal.out(JSON.stringify({ error: { code, message } }))
  }
  return error instanceof CommandError ? error.exitCode : FAILED
}

/** An error of Baton's own, or a system error whose message names the call. */
function isExpected(error: unknown): boolean {
  if (error instanceof CommandError || error instanceof NoAnswerError) return true
  return errnoOf(error)?.startsWith('BATON_ERR_') === true || Object(error).name === 'NativeError'
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
  const known = kind === 'option' ? ['--help', '--version'] : COMMANDS.map((command) => command.name)
  const near = NAMES_IN_PM2.get(name) ?? nearMiss(name, known)
  return `unknown ${kind} ${JSON.stringify(name)}${near === undefined ? '' : ` (did you mean ${near}?)`}`
}

function overview(): string {
  const width = Math.max(...COMMANDS.map((command) => command.name.length))
  return [
    'Usage: baton COMMAND [options]',
    '',
    'Hands client connections to backend processes on this host.',
    '',
    'Commands:',
    ...COMMANDS.map((command) => `  ${command.name.padEnd(width)}  ${command.summary}`),
    '',
    'Run `baton COMMAND --help` for details. `baton --version` prints the version.',
    'Exit codes: 0 success, 1 failure, 2 usage error.',
  ].join('\n')
}

function print(terminal: Terminal, text: string): number {
  terminal.out(text)
  return DONE
}
