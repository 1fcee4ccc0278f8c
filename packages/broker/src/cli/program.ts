import { ConfigError, errnoOf } from '../config/error.ts'
import { nearMiss } from '../config/near-miss.ts'
import { NoAnswerError } from '../ipc/operator-client.ts'
import { BROKER_VERSION } from '../version.ts'
import { check } from './commands/check.ts'
import { helpOf, parseInvocation, type Command } from './command.ts'
import { completionOf } from './commands/completion.ts'
import { deploy } from './commands/deploy.ts'
import { drain } from './commands/drain.ts'
import { events } from './commands/events.ts'
import { reload } from './commands/reload.ts'
import { runApp } from './commands/run.ts'
import { start } from './commands/start.ts'
import { status } from './commands/status.ts'
import { stop } from './commands/stop.ts'
import { top } from './commands/top.ts'
import { trace } from './commands/trace.ts'
import { UsageError, type Terminal } from './output/terminal.ts'
import { DONE, FAILED, USAGE, CommandError } from '../exit-codes.ts'

const COMMANDS: readonly Command[] = [
  runApp,
  start,
  stop,
  check,
  reload,
  deploy,
  status,
  top,
  events,
  trace,
  drain,
  completionOf(() => COMMANDS),
]

/**
 * Runs `baton ARGS...` and says on the terminal what came of it.
 *
 * @returns the exit code: 0 done, 1 failed, 2 usage
 */
export async function run(args: readonly string[], terminal: Terminal): Promise<number> {
  const [name, ...rest] = args
  if (name === '--help' || name === '-h') return print(terminal, overview())
  if (name === '--version') return print(terminal, BROKER_VERSION)

  const command = COMMANDS.find((candidate) => candidate.name === name)
  try {
    if (command === undefined) throw new UsageError(name === undefined ? 'which command?' : unknown(name))
    const invocation = parseInvocation(command, rest)
    if (invocation.switches.has('help')) return print(terminal, helpOf(command))
    return await command.run(invocation, terminal)
  } catch (error) {
    if (!(error instanceof UsageError)) return fail(error, terminal)
    terminal.err(`baton: ${error.message}`)
    terminal.err(`Try: baton ${command === undefined ? '' : `${command.name} `}--help`)
    return USAGE
  }
}

/** Errors that Baton foresees have a code and a message that is complete; of others the stack is what helps. */
function fail(error: unknown, terminal: Terminal): number {
  if (error instanceof CommandError) {
    terminal.err(`baton: ${error.message}`)
    return error.exitCode
  }
  if (error instanceof ConfigError) terminal.err(error.message)
  else if (error instanceof NoAnswerError) terminal.err(`baton: ${error.message}`)
  else if (error instanceof Error && isForeseen(error)) terminal.err(`baton: ${error.message}`)
  else terminal.err(`baton: ${error instanceof Error ? error.stack : String(error)}`)
  return FAILED
}

/** One of ours, or what the system answered to a call that the message names. */
function isForeseen(error: Error): boolean {
  return errnoOf(error)?.startsWith('BATON_ERR_') === true || error.name === 'NativeError'
}

function unknown(name: string): string {
  const kind = name.startsWith('-') ? 'option' : 'command'
  const near = nearMiss(
    name,
    kind === 'option' ? ['--help', '--version'] : COMMANDS.map((command) => command.name),
  )
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
    '`baton COMMAND --help` tells more. `baton --version` prints the version.',
    'Exit codes: 0 done, 1 failed, 2 usage.',
  ].join('\n')
}

function print(terminal: Terminal, text: string): number {
  terminal.out(text)
  return DONE
}
