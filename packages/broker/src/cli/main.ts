#!/usr/bin/env node
import { errnoOf } from '../config/index.ts'
import { run } from './run.ts'

// `baton status | head`: the reader has seen enough, which is no failure of the command.
process.stdout.on('error', (error) => {
  if (errnoOf(error) !== 'EPIPE') throw error
})

process.exitCode = await run(process.argv.slice(2), {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
})
