#!/usr/bin/env node
import { keepEarlySignals, takeEarlySignals } from '../early-signals.ts'
import { run } from './program.ts'

// Only a master keeps early signals, to handle them once it runs; any other command is ended by them.
const isMaster = ['start', 'run'].includes(process.argv[2] ?? '')
/** Commands whose output is a report. If it cannot be written, the exit code must not tell a script that a successful deploy failed. */
const CHANGES = [
  'deploy',
  'drain',
  'init',
  'maintenance',
  'pause',
  'reload',
  'resume',
  'scale',
  'shift',
  'stop',
]
const isChange = CHANGES.includes(process.argv[2] ?? '')
if (isMaster) keepEarlySignals()
const args = process.argv.slice(2)
if (isMaster && !asksForHelp(args)) {
  // A master allocates little. By default V8 lets the young generation grow to 16 MiB, which stays resident.
  // Not imported: no other command needs this module, which loads streams.
  process.getBuiltinModule('node:v8').setFlagsFromString('--semi-space-growth-factor=1')
  const { keepCompiledCode } = await import('../compile-cache.ts')
  keepCompiledCode()
  const { startEarlyWorker, takeEarlyWorker } = await import('../master/early-worker.ts')
  startEarlyWorker(process.argv[2] === 'run' ? 'text' : 'json')
  // Imported here because no other command needs libc. `process.stdout` would make a pipe nonblocking for every process that writes to it.
  const { masterTerminal, endOutput } = await import('./output/master-terminal.ts')
  process.exitCode = await run(args, masterTerminal)
  // Of a start that failed before it could use it.
  takeEarlyWorker()?.end()
  await endOutput(process.exitCode)
} else {
  const { commandTerminal } = await import('./output/command-terminal.ts')
  const { terminal, exitCode } = commandTerminal(process, !isChange || asksForHelp(args))
  process.exitCode = exitCode(await run(args, terminal))
}
// After a start that failed, signals must end the process again.
takeEarlySignals()

/** Ignores `--help` of the app's own command, which follows `--`. */
function asksForHelp(words: readonly string[]): boolean {
  const end = words.indexOf('--')
  return words.slice(0, end === -1 ? words.length : end).includes('--help')
}
