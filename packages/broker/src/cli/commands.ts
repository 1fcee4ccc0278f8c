import { ConfigError, errnoOf } from '../config/error.ts'
import { describeError } from '../errors.ts'
import { CommandError, DONE, FAILED } from '../exit-codes.ts'
import { NoAnswerError } from '../ipc/operator-client.ts'
import { helpOf, parseInvocation, type Command, type Invocation } from './command.ts'
import { check } from './commands/check.ts'
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
import { type CommandName, SUMMARIES } from './summaries.ts'

const COMMANDS: Readonly<Record<CommandName, Command>> = {
  run: runApp,
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
  completion: completionOf(() => inOrder()),
}

function inOrder(): readonly Command[] {
  return Object.keys(SUMMARIES).map((name) => COMMANDS[name as CommandName])
}

/**
 * Runs one command, or prints its help.
 *
 * @param args those after its name
 * @returns the exit code
 * @throws UsageError
 */
export async function runCommand(
  name: CommandName,
  args: readonly string[],
  terminal: Terminal,
): Promise<number> {
  const command = COMMANDS[name]
  const invocation = parseInvocation(command, args)
  if (invocation.switches.has('help')) {
    terminal.out(helpOf(command))
    return DONE
  }
  try {
    return await command.run(invocation, terminal)
  } catch (error) {
    if (error instanceof UsageError) throw error
    return fail(error, terminal, invocation)
  }
}

/**
 * Prints why a command failed. Expected errors have a complete message, and a code where the page of errors has one; any other error
 * is a defect, and its stack is printed. With `--json`, the error is printed on standard output as well, in the shape of the admin API.
 */
function fail(error: unknown, terminal: Terminal, { switches }: Invocation): number {
  const text = isExpected(error) ? describeError(error) : error instanceof Error ? error.stack : String(error)
  // The problems of a configuration begin with the name of its file.
  terminal.err(error instanceof ConfigError ? describeError(error) : `baton: ${text}`)
  if (switches.has('json')) {
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
