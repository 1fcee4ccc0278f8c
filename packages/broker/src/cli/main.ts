#!/usr/bin/env node
import { keepEarlySignals, takeEarlySignals } from './early-signals.ts'

// Only a master has signals to obey later; any other command ends by them.
const isMaster = ['start', 'run'].includes(process.argv[2] ?? '')
if (isMaster) keepEarlySignals()
const [{ errnoOf }, { run }] = await Promise.all([import('../config/index.ts'), import('./run.ts')])

// `baton status | head`: the reader has seen enough, which is no failure of the command.
process.stdout.on('error', (error) => {
  if (errnoOf(error) !== 'EPIPE') throw error
})

process.exitCode = await run(process.argv.slice(2), {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
})
// Of a start that came to nothing.
takeEarlySignals()
