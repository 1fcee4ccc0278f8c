#!/usr/bin/env node
import { keepEarlySignals, takeEarlySignals } from '../early-signals.ts'

// Only a master has signals to obey later; any other command ends by them.
const isMaster = ['start', 'run'].includes(process.argv[2] ?? '')
/** Commands whose output reports on what they do; a script that cannot read it must not take a deploy that succeeded for a failure. */
const isChange = ['deploy', 'drain', 'reload', 'stop'].includes(process.argv[2] ?? '')
if (isMaster) keepEarlySignals()
const { run } = await import('./program.ts')

const args = process.argv.slice(2)
if (isMaster && !asksForHelp(args)) {
  // Loaded here: no other command needs libc. `process.stdout` would make a pipe nonblocking for all that write to it.
  const { masterTerminal, endOutput } = await import('./output/master-terminal.ts')
  process.exitCode = await run(args, masterTerminal)
  await endOutput(process.exitCode)
} else {
  const { commandTerminal } = await import('./output/command-terminal.ts')
  const { terminal, exitCode } = commandTerminal(process, !isChange || asksForHelp(args))
  process.exitCode = exitCode(await run(args, terminal))
}
// Of a start that came to nothing.
takeEarlySignals()

/** Before what is the app's own. */
function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf('--')
  return words.slice(0, end === -1 ? words.length : end).includes('--help')
}
